"""The keys of a reply to DeleteObjects by the pattern are those of the tree, whatever it holds."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockyard.context import Response
from blockyard.errors import BlockStoreError, ProtocolError
from blockyard.s3 import responses
from blockyard.s3.xml import MAX_REPLY, cut_deleted

# Other work on the machine is no failure.
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ASKED = ["a", "b", "c", "z", "a&b", "é", " a "]


def entry(key: str = "a", before: str = "", behind: str = "") -> str:
    return f"<Deleted>{before}<Key>{key}</Key>{behind}</Deleted>"


FAILED = "<Error><Key>b</Key><Code>AccessDenied</Code><Message>No.</Message></Error>"
MARKER = "<DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>x-1</DeleteMarkerVersionId>"


def deletion(entries: str, root: str = "DeleteResult", tail: str = "") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://s3.amazonaws.com/doc/">'
        f"{entries}{tail}</{root}>"
    )


def outcome(body: bytes) -> object:
    """What became of each key; or the kind of error, whose words may differ."""
    try:
        gone, failed = responses.delete_outcome(Response(200, {}, body, len(body)), ASKED)
    except BlockStoreError as error:
        return type(error)
    return gone, {key: (type(error), str(error)) for key, error in failed.items()}


def check(body: str | bytes) -> object:
    """What came of `body`, which must not depend on the way its entries were read."""
    data = body if isinstance(body, bytes) else body.encode(errors="surrogatepass")
    found = outcome(data)
    with patch.object(responses, "cut_deleted", lambda _: None):
        assert outcome(data) == found
    return found


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(entry(), id="AWS"),
        pytest.param(entry(behind=MARKER), id="AWS with versions"),
        pytest.param(entry(before=MARKER), id="Ceph with versions"),
        pytest.param(entry(behind="<VersionId>null</VersionId>"), id="MinIO"),
    ],
)
@pytest.mark.parametrize("tail", ["", FAILED])
def test_entries_as_services_write_them_take_the_short_way(written: str, tail: str) -> None:
    body = deletion(written + written.replace(">a<", ">c<"), tail=tail)
    assert cut_deleted(body.encode()) == (deletion("<Deleted/>", tail=tail).encode(), ["a", "c"])
    found = check(body)
    assert isinstance(found, tuple)
    assert found[0] == ["a", "c"]
    assert set(found[1]) == {*ASKED} - {"a", "c"}


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(entry("a&amp;b"), id="escape"),
        pytest.param(entry("<![CDATA[a]]>"), id="CDATA in a field"),
        pytest.param(entry("a<!-- c -->b"), id="comment in a field"),
        pytest.param(entry("é"), id="not ASCII"),
        pytest.param(entry("a\rb"), id="line end that XML changes"),
        pytest.param(entry(" a "), id="blanks"),
        pytest.param(entry("x"), id="not requested"),
        pytest.param(entry(""), id="no key"),
        pytest.param("<Deleted><Key/></Deleted>", id="empty key"),
        pytest.param(entry(behind="<Owner><Key>b</Key></Owner>"), id="nested field"),
        pytest.param(entry(behind="<Key>b</Key>"), id="two keys"),
        pytest.param(entry().replace("<Deleted>", "<Deleted b=''>"), id="attribute"),
        pytest.param(entry().replace("<Deleted>", "<Deleted xmlns=''>"), id="no namespace"),
        pytest.param(entry().replace("<Key>", "<Key xmlns='x'>"), id="another namespace"),
        pytest.param(entry() + FAILED + entry("c"), id="a failure between"),
        pytest.param(FAILED.replace("b", "a") + entry(), id="gone and failed"),
        pytest.param(FAILED.replace("AccessDenied", "NoSuchKey") + entry(), id="was not there"),
        pytest.param(FAILED.replace("No.", "Deleted") + entry(), id="its name in a message"),
        pytest.param(entry() + "\n" + entry("b"), id="blanks between"),
        pytest.param(f"<!--{entry()}-->", id="in a comment"),
        pytest.param(f"<![CDATA[{entry()}]]>", id="in CDATA"),
        pytest.param(f"<Other>{entry()}</Other>", id="in another element"),
        pytest.param(f"<Other>{entry()}</Other><Deleted/>", id="elsewhere and an empty one"),
        pytest.param(f"<Key>{entry()}</Key>", id="in a field"),
        pytest.param(f"<s:b xmlns:s='x'>{entry()}</s:b>", id="in another namespace"),
        pytest.param(f"{entry()}</DeleteResult><DeleteResult>{entry()}", id="two roots"),
        pytest.param(entry("\x00"), id="NUL"),
        pytest.param(entry("&#1;"), id="reference to a control character"),
        pytest.param(entry("\ud800"), id="not UTF-8"),
        pytest.param(entry()[:-1], id="cut off"),
        pytest.param("</Deleted><Deleted>", id="end before begin"),
        pytest.param("<Deleted>", id="begin alone"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_is_not_plain_is_read_as_the_tree_reads_it(entries: str) -> None:
    _ = check(deletion(entries))
    _ = check(deletion(entry("c") + entries + entry("z")))
    _ = check(deletion(entries, root="Error"))
    _ = check(deletion(entries, root="s:DeleteResult xmlns:s='x'"))


def test_entries_that_only_look_alike_are_not_believed() -> None:
    found = check(deletion(f"<!--{entry()}-->" + entry("b&amp;").replace("b&amp;", "a&amp;b")))
    assert isinstance(found, tuple)
    assert found[0] == ["a&b"]


@pytest.mark.parametrize("body", [entry() * 60_000, entry("a" * MAX_REPLY)])
def test_plain_entries_are_held_to_the_limits_too(body: str) -> None:
    assert check(deletion(body)) is ProtocolError


pieces = st.sampled_from(
    [
        *(entry(), entry("b", behind=MARKER), entry("x"), entry("a&gt;"), FAILED),
        *("<Deleted>", "</Deleted>", "<Deleted/>", "<Key>a</Key>", "<Key>", "</Key>"),
        *("<!--", "-->", "<![CDATA[", "]]>", "<?p ", "?>", "<Error>", "</Error>", "<a xmlns=''>"),
        *("</a>", "&", "\n", "]", "-", "\r", "é", "<", ">"),
    ]
)


@steady
@given(st.lists(pieces, max_size=8).map("".join), st.lists(pieces, max_size=3).map("".join))
def test_any_mixture_is_read_as_the_tree_reads_it(entries: str, tail: str) -> None:
    _ = check(deletion(entries, tail=tail))
    _ = check(deletion(entry("c") + entries + entry("z"), tail=tail))


@steady
@given(st.integers(0), st.integers(0, 40), pieces.map(str.encode) | st.binary())
@example(150, 0, b"\x01")
def test_damaged_entries_are_read_as_the_tree_reads_them(
    place: int, length: int, instead: bytes
) -> None:
    body = deletion(entry() + entry("b", behind=MARKER) + entry("c")).encode()
    begin = place % len(body)
    _ = check(body[:begin] + instead + body[begin + length :])
