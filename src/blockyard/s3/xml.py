"""S3's XML replies, read within stated limits: any document, and quickly what comes by thousands.

A reply is read by expat, always as UTF-8. Only an XML declaration may come before the root
element, so there can be no document type, no entity beyond the five that XML has, and nothing
outside the reply is ever fetched. docs/decisions/xml.md says why ElementTree is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import Element, ParseError, XMLParser

from blockyard.errors import ProtocolError
from blockyard.s3.dates import iso_date

if TYPE_CHECKING:
    from collections.abc import Iterator

# ElementTree is not imported by the first call that needs it: a signal handler that makes a call in
# the middle of that would find half a module.

MAX_REPLY = 8 * 1024 * 1024
"""The longest reply, in bytes: 1000 keys of 1024 bytes, each byte escaped, fit in."""

_MAX_TAGS = 100_000  # 1000 records of 50 elements; it bounds the nesting and the memory as well
_LONG_NAMESPACE = re.compile(rb"xmlns(?::[^\s:=<>]*+)?\s*+=\s*+(?:'[^'<]{1024}|\"[^\"<]{1024})")
"""expat copies the namespace into the name of each element and attribute that has it."""
_MOST_MARKS = 100_000
"""Characters that are written as XML forbids; a function is called for each."""
_MARK = "\ue000"  # a private character, of no use in a reply
_MARKED = re.compile(f"{_MARK}([0-9a-f]{{4}})")
_MARKED_CODES = {*range(1, 32), 0xFFFE, 0xFFFF, ord(_MARK)} - {*b"\t\n\r"}
_FORBIDDEN = re.compile(
    rb"&#x(?P<hexadecimal>[0-9a-fA-F]{1,4});|&#(?P<decimal>[0-9]{1,5});"
    rb"|[\x01-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]"
)
_PROLOG = re.compile(rb"(?:<\?xml[^>]*\?>)?\s*<[A-Za-z_]")


class Document:
    """The root element of a reply, and its children by their local names.

    Namespaces are not compared: services write S3's, their own or none.
    """

    __slots__ = ("_marked", "_namespace", "_root", "name")

    def __init__(self, root: Element, *, marked: bool = False) -> None:
        namespace, brace, self.name = root.tag.rpartition("}")
        self._namespace = namespace + brace
        self._root = root
        self._marked = marked

    def text(self, name: str) -> str:
        """The text of the root's child `name`, "" when it is absent or empty."""
        return self.find(name) or ""

    def find(self, name: str) -> str | None:
        """The text of the root's child `name`, "" when it is empty, None when it is absent."""
        text = self._root.findtext(self._namespace + name)
        return _unmarked(text) if self._marked and text else text

    def entries(self, name: str, *fields: str) -> Iterator[list[str]]:
        """For each child `name` of the root (or `name/name`), the texts of its `fields`.

        An absent field is "", and of a repeated one the first counts.
        """
        tags = [self._namespace + field for field in fields]
        path = "/".join([self._namespace + step for step in name.split("/")])
        for element in self._root.iterfind(path):
            entry = [element.findtext(tag, "") for tag in tags]
            yield [_unmarked(text) for text in entry] if self._marked else entry


def read_xml(body: bytes, limit: int = MAX_REPLY) -> Document:
    """The document in `body`; blanks may come before it, as in a reply that was kept alive.

    Raises `ProtocolError` for what is not well-formed XML in UTF-8, is longer than `limit`
    bytes, holds too many elements, or has anything but an XML declaration before its root.
    """
    check_limits(body, limit)
    body = body.strip()
    if not _PROLOG.match(body):
        raise ProtocolError("the reply is not an XML document as S3 writes it")
    if _LONG_NAMESPACE.search(body):
        raise ProtocolError("the reply has an XML namespace of 1024 bytes or more")
    try:
        return Document(_parse(body))
    except ParseError as error:
        marked, found = _FORBIDDEN.subn(_mark, body, _MOST_MARKS)
        if not found or _MARK.encode() in body:
            raise _malformed(error) from error
    try:
        return Document(_parse(marked), marked=True)
    except ParseError as error:
        raise _malformed(error) from error


def check_limits(body: bytes, limit: int = MAX_REPLY) -> None:
    """Raise `ProtocolError` when `body` has more than `limit` bytes, or too many elements."""
    if len(body) > limit:
        raise ProtocolError(f"the reply is {len(body)} bytes of XML, the limit is {limit}")
    if body.count(b"<") > 2 * _MAX_TAGS:
        raise ProtocolError(f"the reply holds more than {_MAX_TAGS} XML elements")


def _parse(body: bytes) -> Element:
    parser = XMLParser(encoding="utf-8")  # noqa: S314 # its attacks need a document type
    parser.feed(body)
    return parser.close()


def _malformed(error: ParseError) -> ProtocolError:
    return ProtocolError(f"the reply is not well-formed XML: {error}")


# Ceph writes characters that XML 1.0 forbids, in a token or in what it echoes: control characters
# as references, two others as they are. A mark and four digits stand for one while expat reads.


def _mark(written: re.Match[bytes]) -> bytes:
    if written["hexadecimal"]:
        code = int(written["hexadecimal"], 16)
    elif written["decimal"]:
        code = int(written["decimal"])
    else:
        code = ord(written[0].decode())
    return f"{_MARK}{code:04x}".encode() if code in _MARKED_CODES else written[0]


def _unmarked(text: str) -> str:
    return _MARKED.sub(lambda marked: chr(int(marked[1], 16)), text)


# The entries of a listing, and the keys that were deleted, where they are written as AWS does, by
# one pattern and without a tree.
#
# A reply has a thousand of them, nearly always alike, and a tree of them takes five times as long.
# What is written otherwise (another escape than a quote, a comment, an attribute, blanks between
# elements, an unknown element, another order) is left to the tree, with the same result.
#
# Why it is safe: the pattern has to account for every byte from the first entry to the last, and it
# takes nothing but whole elements that hold printable ASCII. So the rest of the reply, with one
# empty `<Contents/>` in their place, is well-formed when the reply is, and the tree of the rest
# says where they stood. The rest names `Contents` nowhere else: when the tree has one right below
# the root, they were its entries, and not a comment, a CDATA section or part of something else.

_TEXT = r"[ -%'-;=?-~]*+"  # printable ASCII but for & < >
_UNQUOTED = r"[ !#-%'-;=?-~]*+"  # and but for the quote
_QUOTE = '(?:"|&quot;|&#34;)?+'


def _others(*names: str) -> str:
    return "(?:{})*+".format("|".join(f"<{name}>{_TEXT}</{name}>" for name in names))


_OTHERS = _others("StorageClass", "ChecksumAlgorithm", "ChecksumType", "Type")
_VERSIONS = _others("DeleteMarker", "DeleteMarkerVersionId", "VersionId")
_ENTRY = (
    f"<Contents><Key>({_TEXT})</Key><LastModified>({_TEXT})</LastModified>"
    f"<ETag>{_QUOTE}((?!W/){_UNQUOTED}){_QUOTE}</ETag>"
    f"{_OTHERS}<Size>([0-9]{{1,18}})</Size>{_OTHERS}</Contents>"
)
_DELETED = f"<Deleted>{_VERSIONS}<Key>({_TEXT})</Key>{_VERSIONS}</Deleted>"


class Entries(NamedTuple):
    """The entries column by column, all as long: keys as written, sizes in bytes, bare ETags."""

    keys: list[str]
    sizes: Iterable[int]
    etags: Iterable[str]
    moments: Iterable[datetime | None]

    def behind_first(self) -> Entries:
        """The entries but for the first one."""
        return Entries(
            self.keys[1:],
            islice(self.sizes, 1, None),
            islice(self.etags, 1, None),
            islice(self.moments, 1, None),
        )


def cut_entries(body: bytes) -> tuple[bytes, Entries] | None:
    """The reply with one empty `<Contents/>` instead of its entries, and the entries.

    None when they are not written as AWS does, or there are none.
    """
    cut = _cut(body, b"Contents", _ENTRY)
    if cut is None:
        return None
    rest, (keys, dates, etags, sizes) = cut
    return rest, Entries(keys, map(int, sizes), etags, map(iso_date, dates))


def cut_deleted(body: bytes) -> tuple[bytes, list[str]] | None:
    """The reply with one empty `<Deleted/>` instead of the keys that were deleted, and the keys.

    None when they are not written as AWS does, or there are none.
    """
    cut = _cut(body, b"Deleted", _DELETED)
    return None if cut is None else (cut[0], cut[1][0])


_compiled = cache(re.compile)
"""Not before they are needed: a millisecond of a process's first read."""


def _cut(body: bytes, name: bytes, element: str) -> tuple[bytes, list[list[str]]] | None:
    check_limits(body)
    pattern = _compiled(element)
    closing = b"</%b>" % name
    begin, end = body.find(b"<%b>" % name), body.rfind(closing) + len(closing)
    if begin < 0:
        return None
    # Before, between and after the entries, `split` leaves what it did not match.
    found = pattern.split(body[begin:end].decode("latin-1"))
    gaps, *columns = (found[column :: pattern.groups + 1] for column in range(pattern.groups + 1))
    before, after = body[:begin], body[end:]
    if any(gaps) or name in before or name in after:
        return None
    return b"%b<%b/>%b" % (before, name, after), columns
