"""Contents over HTTP, with ranges, by FastAPI: what a client that goes away leaves is nothing.

    BLOCKYARD_STORE=s3://my-data/blocks/ uvicorn --factory examples.serve:application

Each response reads its content a few blocks ahead, and only as fast as its client takes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

import blockyard
from blockyard import AsyncBlockStore, BlockNotFoundError

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def application() -> FastAPI:
    """The application; its store is the one that `BLOCKYARD_STORE` names."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with blockyard.open_async_store(os.environ["BLOCKYARD_STORE"]) as store:
            app.state.store = store
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_api_route("/contents/{content_id:path}", get_content, methods=["GET", "HEAD"])
    app.add_exception_handler(BlockNotFoundError, not_found)
    return app


async def get_content(request: Request, content_id: str) -> Response:
    """A content, or the range of it that is asked for."""
    store: AsyncBlockStore = request.app.state.store
    info = await store.stat_content(content_id)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": info.content_type or "application/octet-stream",
        "ETag": f'"{info.version}"',
    }
    asked = request.headers.get("range")
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        asked = None  # of another version: the whole content, as it is now
    begin, end, status = 0, info.size, 200
    if asked is not None and (found := RANGE.fullmatch(asked)) and any(found.groups()):
        begin, end = bounds(found[1], found[2], info.size)
        if begin >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{info.size}"})
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{info.size}"
        status = 206
    headers["Content-Length"] = str(end - begin)
    if request.method == "HEAD" or begin == end:
        return Response(status_code=status, headers=headers)
    # A content that is replaced just now has other bytes than the ETag says: who resumes by that
    # gets all of the new one. One that has become shorter ends before its Content-Length.
    return StreamingResponse(pieces(store, content_id, begin, end - begin), status, headers)


def bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """The first byte of a range, and the one after the last: "5-9", "5-", or "-5" from the end."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


async def pieces(
    store: AsyncBlockStore, content_id: str, begin: int, length: int
) -> AsyncIterator[bytes]:
    """The bytes of a content. What was read ahead is let go of when the client does."""
    async with aclosing(store.iter_content(content_id, begin, length)) as blocks:
        async for block in blocks:
            yield block


async def not_found(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=404)


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(application())
