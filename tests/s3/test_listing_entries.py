"""Listing entries by the pattern are those of the tree, whatever a reply holds."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockyard.context import Response
from blockyard.errors import BlockStoreError, ProtocolError
from blockyard.model import BlockInfo, Page
from blockyard.s3 import listing as pages
from blockyard.s3.listing import PageRequest
from blockyard.s3.xml import MAX_REPLY, cut_entries

# Other work on the machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TIME = "2024-05-06T07:08:09.000Z"
HASH = "d41d8cd98f00b204e9800998ecf8427e"


def row(key: str = "a", **fields: str) -> str:
    """A row as AWS writes it, in which `fields` replace what is between the tags."""
    texts = {
        "Key": key,
        "LastModified": TIME,
        "ETag": f"&quot;{HASH}&quot;",
        "ChecksumAlgorithm": "CRC64NVME",
        "ChecksumType": "FULL_OBJECT",
        "Size": "7",
        "StorageClass": "STANDARD",
    } | fields
    inner = "".join(f"<{name}>{text}</{name}>" for name, text in texts.items())
    return f"<Contents>{inner}</Contents>"


def listing(rows: str, *, root: str = "ListBucketResult", tail: str = "") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://s3.amazonaws.com/doc/">'
        f"<EncodingType>url</EncodingType>{rows}<IsTruncated>false</IsTruncated>{tail}</{root}>"
    )


def reply(body: str | bytes) -> Response:
    data = body if isinstance(body, bytes) else body.encode(errors="surrogatepass")
    return Response(200, {}, data, len(data))


@contextmanager
def tree_alone() -> Generator[None]:
    def none(_: bytes) -> None:
        return None

    with patch.object(pages, "cut_entries", none):
        yield


def outcome(response: Response, key_prefix: str) -> object:
    """The page, as whole rows and as keys; or the kind of error, whose words may differ."""
    try:
        page = pages.list_page(response, PageRequest(key_prefix), key_prefix)
    except BlockStoreError as error:
        with pytest.raises(type(error)):
            _ = pages.list_keys(response, PageRequest(key_prefix), key_prefix)
        return type(error)
    keys = [block.key for block in page.blocks]
    assert pages.list_keys(response, PageRequest(key_prefix), key_prefix) == (keys, page.next_token)
    return page


def check(body: str | bytes, key_prefix: str = "") -> object:
    """What came of `body`, which must not depend on the way its rows were read."""
    found = outcome(reply(body), key_prefix)
    with tree_alone():
        assert outcome(reply(body), key_prefix) == found
    return found


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(row("a%2Fb+c"), id="AWS"),
        pytest.param(
            f"<Contents><Key>a</Key><LastModified>{TIME}</LastModified><ETag>&quot;{HASH}&quot;"
            "</ETag><Size>0</Size><StorageClass>STANDARD</StorageClass><Type>Normal</Type>"
            "</Contents>",
            id="Ceph",
        ),
        pytest.param(
            f"<Contents><Key>a</Key><LastModified>{TIME}</LastModified><ETag>&#34;{HASH}-2&#34;"
            "</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>",
            id="MinIO",
        ),
        pytest.param(
            f'<Contents><Key>a</Key><LastModified>{TIME}</LastModified><ETag>"{HASH}"</ETag>'
            "<Size>999999999999999999</Size></Contents>",
            id="plain quotes",
        ),
        pytest.param(row("a", LastModified="once"), id="no date"),
        pytest.param(row("a", ETag=HASH), id="no quotes"),
        pytest.param(row("a", ETag="&quot;&quot;"), id="empty ETag"),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_rows_as_services_write_them_take_the_short_way(written: str, count: int) -> None:
    body = listing("".join(written.replace(">a", f">a{n}", 1) for n in range(count)))
    cut = cut_entries(body.encode())
    assert cut is not None
    assert len(cut[1].keys) == count
    assert cut[0].decode() == listing("<Contents/>")
    assert isinstance(check(body), Page)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(row("a&amp;b"), id="escape"),
        pytest.param(row("<![CDATA[a]]>"), id="CDATA in a field"),
        pytest.param(row("a<!-- c -->b"), id="comment in a field"),
        pytest.param(row("é"), id="not ASCII"),
        pytest.param(row("a\rb"), id="line end that XML changes"),
        pytest.param(row(" a "), id="blanks"),
        pytest.param(row("a", Owner="<ID>me</ID><Key>b</Key>"), id="nested field"),
        pytest.param(row("a", ETag="W/&quot;x&quot;"), id="weak ETag"),
        pytest.param(row("a", ETag="&quot;W/x&quot;"), id="ETag that begins as a weak one"),
        pytest.param(row("a", ETag='""x""'), id="two quotes"),
        pytest.param(row().replace("Contents>", "Contents >"), id="blank in a tag"),
        pytest.param(row().replace("<Contents>", "<Contents b=''>"), id="attribute"),
        pytest.param(row().replace("<Contents>", "<Contents xmlns=''>"), id="no namespace"),
        pytest.param(row().replace("<Key>", "<Key xmlns='x'>"), id="key in another namespace"),
        pytest.param(row().replace("<Size>", "<Size>8</Size><Size>"), id="two sizes"),
        pytest.param(row().replace("<Key>", "<Key>b</Key><Key>"), id="two keys"),
        pytest.param(row().replace("<Key>", "<Size>8</Size><Key>"), id="size before the key"),
        pytest.param(row() + "<Contents xmlns=''><Key>b</Key></Contents>", id="another after"),
        pytest.param(row() + "\n" + row("b"), id="blanks between"),
        pytest.param(row() + "<Name>b</Name>" + row("b"), id="another element between"),
        pytest.param(row() + "<Contents/>", id="an empty one after"),
        pytest.param("<Contents/>" + row(), id="an empty one before"),
        pytest.param(f"<!--{row()}-->", id="rows in a comment"),
        pytest.param(f"<![CDATA[{row()}]]>", id="rows in CDATA"),
        pytest.param(f"<?p {row()}?>", id="rows in an instruction"),
        pytest.param(f"<Other>{row()}</Other>", id="rows in another element"),
        pytest.param(f"<Other>{row()}</Other><Contents/>", id="rows elsewhere and an empty one"),
        pytest.param(f"<Contents >{row()}</Contents >", id="rows in a row"),
        pytest.param(
            f"<O>{row()}</O><s:Contents xmlns:s='http://s3.amazonaws.com/doc/'/>",
            id="rows elsewhere and a prefixed one",
        ),
        pytest.param(f"<Name>{row()}</Name>", id="rows in a field"),
        pytest.param(f"<s:b xmlns:s='x'>{row()}</s:b>", id="rows in another namespace"),
        pytest.param(f"{row()}</ListBucketResult><ListBucketResult>{row()}", id="two roots"),
        pytest.param(row("]]>"), id="end of CDATA in a field"),
        pytest.param(row("a", Size="٣"), id="digits of another script"),
        pytest.param(row("a", Size="1" * 19), id="long size"),
        pytest.param(row("a", Size=""), id="no size"),
        pytest.param(row(""), id="no key"),
        pytest.param(row("\x00"), id="NUL"),
        pytest.param(row("\x01"), id="control character"),
        pytest.param(row("&#1;"), id="reference to a control character"),
        pytest.param(row("\ufffe"), id="forbidden character"),
        pytest.param(row("\ud800"), id="not UTF-8"),
        pytest.param(row().replace("</ETag>", "</Etag>"), id="other end tag"),
        pytest.param(row().replace("</Type>", "</StorageClass>"), id="end tag of another"),
        pytest.param(row()[:-1], id="cut off"),
        pytest.param("</Contents><Contents>", id="end before begin"),
        pytest.param("<Contents>", id="begin alone"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_is_not_plain_is_read_as_the_tree_reads_it(rows: str) -> None:
    _ = check(listing(rows))
    _ = check(listing(row("p") + rows + row("z")))
    _ = check(listing(rows, root="Error"))
    _ = check(listing(rows, root="s:ListBucketResult xmlns:s='x'"))


def test_rows_below_another_element_are_none_of_the_page() -> None:
    page = check(listing(f"<Other>{row()}{row('b')}</Other>"))
    assert isinstance(page, Page)
    assert page.blocks == []


def test_rows_that_only_look_alike_are_not_skipped() -> None:
    page = check(listing(row("a") + row("b&amp;") + row("c")))
    assert isinstance(page, Page)
    assert [block.key for block in page.blocks] == ["a", "b&", "c"]


@pytest.mark.parametrize("body", [row() * 20_000, row("a" * MAX_REPLY)])
def test_plain_rows_are_held_to_the_limits_too(body: str) -> None:
    assert check(listing(body)) is ProtocolError


def test_the_prefix_is_cut_from_plain_keys() -> None:
    page = check(listing(row("p%2F") + row("p%2Fa")), "p/")
    assert isinstance(page, Page)
    assert [type(block) for block in page.blocks] == [BlockInfo]
    assert page.blocks[0].key == "a"
    assert check(listing(row("p%2Fa") + row("q%2Fa")), "p/") is ProtocolError


pieces = st.sampled_from(
    [
        *(row(), row("p%2Fb"), row("c", ETag="x"), row("d", Size="01"), row("e&gt;")),
        *("<Contents>", "</Contents>", "<Contents/>", "<Key>a</Key>", "<Size>1</Size>"),
        *("<!--", "-->", "<![CDATA[", "]]>", "<?p ", "?>", "<Name>", "</Name>", "<a xmlns=''>"),
        *("</a>", "&quot;", "&", "\n", "]", "-", "\r", "é", "W/", "<ETag>", "</ETag>", "<", ">"),
    ]
)
plain = st.lists(st.sampled_from([row(), row("p%2Fb"), row("p%2F")]), min_size=1).map("".join)
prefixes = st.sampled_from(["", "p/"])


@steady
@given(st.lists(pieces, max_size=8).map("".join), st.lists(pieces, max_size=3).map("".join))
def test_any_mixture_is_read_as_the_tree_reads_it(rows: str, tail: str) -> None:
    _ = check(listing(rows, tail=tail))
    _ = check(listing(row() + rows + row(), tail=tail), "p/")


@steady
@given(plain, st.integers(0), st.integers(0, 40), pieces.map(str.encode) | st.binary(), prefixes)
@example(row() * 2, 150, 0, b"\x01", "")
def test_damaged_rows_are_read_as_the_tree_reads_them(
    rows: str, place: int, length: int, instead: bytes, key_prefix: str
) -> None:
    body = listing(rows).encode()
    begin = place % len(body)
    _ = check(body[:begin] + instead + body[begin + length :], key_prefix)


fields = st.text(max_size=8) | st.text('"W/<>&; quot#34', max_size=8)


@steady
@given(key=fields, etag=fields, size=fields | st.integers().map(str), date=fields)
def test_any_field_is_read_as_the_tree_reads_it(key: str, etag: str, size: str, date: str) -> None:
    _ = check(listing(row() + row(key, ETag=etag, Size=size, LastModified=date) + row("z")))
