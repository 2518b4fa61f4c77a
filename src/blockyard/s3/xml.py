"""S3's XML replies, read within stated limits.

A reply is read by expat, always as UTF-8. Only an XML declaration may come before the root
element, so there can be no document type, no entity beyond the five that XML has, and nothing
outside the reply is ever fetched. docs/decisions/xml.md says why ElementTree is enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, ParseError, XMLParser

from blockyard.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_REPLY = 8 * 1024 * 1024
"""The longest reply, in bytes: 1000 keys of 1024 bytes, each byte escaped, fit in."""

_MAX_TAGS = 100_000  # 1000 records of 50 elements; it bounds the nesting and the memory as well
_PROLOG = re.compile(rb"(?:<\?xml[^>]*\?>)?\s*<[A-Za-z_]")


class Document:
    """The root element of a reply, and its children by their local names.

    Namespaces are not compared: services write S3's, their own or none.
    """

    __slots__ = ("_namespace", "_root", "name")

    def __init__(self, root: Element) -> None:
        namespace, brace, self.name = root.tag.rpartition("}")
        self._namespace = namespace + brace
        self._root = root

    def text(self, name: str) -> str:
        """The text of the root's child `name`, "" when it is absent or empty."""
        return self._root.findtext(self._namespace + name, "")

    def rows(self, name: str, *fields: str) -> Iterator[list[str]]:
        """For each child `name` of the root, the texts of its `fields`.

        An absent field is "", and of a repeated one the first counts.
        """
        tags = [self._namespace + field for field in fields]
        for element in self._root.iterfind(self._namespace + name):
            yield [element.findtext(tag, "") for tag in tags]


def read_xml(body: bytes, limit: int = MAX_REPLY) -> Document:
    """The document in `body`; blanks may come before it, as in a reply that was kept alive.

    Raises `ProtocolError` for what is not well-formed XML in UTF-8, is longer than `limit`
    bytes, holds too many elements, or has anything but an XML declaration before its root.
    """
    if len(body) > limit:
        raise ProtocolError(f"the reply is {len(body)} bytes of XML, the limit is {limit}")
    if body.count(b"<") > 2 * _MAX_TAGS:
        raise ProtocolError(f"the reply holds more than {_MAX_TAGS} XML elements")
    body = body.strip()
    if not _PROLOG.match(body):
        raise ProtocolError("the reply is not an XML document as S3 writes it")
    parser = XMLParser(encoding="utf-8")  # noqa: S314 # its attacks need a document type
    try:
        parser.feed(body)
        root = parser.close()
    except ParseError as error:
        raise ProtocolError(f"the reply is not well-formed XML: {error}") from error
    return Document(root)
