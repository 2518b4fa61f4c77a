"""`ObspecStore` as obspec's protocols, which type checkers alone can see."""

from __future__ import annotations

import obspec
from async_tiff import TIFF
from obspec_utils.readers import BlockStoreReader, BufferedStoreReader, EagerStoreReader

from blockyard.obspec import ObspecStore


def protocols(store: ObspecStore) -> list[object]:
    get: obspec.Get = store
    get_async: obspec.GetAsync = store
    get_range: obspec.GetRange = store
    get_range_async: obspec.GetRangeAsync = store
    get_ranges: obspec.GetRanges = store
    get_ranges_async: obspec.GetRangesAsync = store
    head: obspec.Head = store
    head_async: obspec.HeadAsync = store
    put: obspec.Put = store
    put_async: obspec.PutAsync = store
    delete: obspec.Delete = store
    delete_async: obspec.DeleteAsync = store
    copy: obspec.Copy = store
    copy_async: obspec.CopyAsync = store
    rename: obspec.Rename = store
    rename_async: obspec.RenameAsync = store
    listing: obspec.List = store
    listing_async: obspec.ListAsync = store
    folder: obspec.ListWithDelimiter = store
    folder_async: obspec.ListWithDelimiterAsync = store
    return [
        get, get_async, get_range, get_range_async, get_ranges, get_ranges_async, head, head_async,
        put, put_async, delete, delete_async, copy, copy_async, rename, rename_async,
        listing, listing_async, folder, folder_async,
    ]  # fmt: skip


async def used_by_others(store: ObspecStore) -> list[object]:
    return [
        await TIFF.open("a.tif", store=store),  # pyright: ignore[reportUnknownMemberType]
        BlockStoreReader(store, "a"),
        BufferedStoreReader(store, "a"),
        EagerStoreReader(store, "a"),
    ]
