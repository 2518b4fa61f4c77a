"""The rows of a listing where they are written plainly: by one pattern, without a tree.

A page has a thousand rows, nearly always alike, and a tree of them takes five times as long.
What is not plain (another escape than a quote, a comment, an attribute, blanks between elements,
an unknown element, another order) is left to the tree, with the same result.

Why it is safe: the pattern has to account for every byte from the first row to the last, and it
takes nothing but whole elements that hold printable ASCII. So the rest of the reply, with one
empty `<Contents/>` in their place, is well-formed when the reply is, and the tree of the rest
says where they stood. The rest names `Contents` nowhere else: when the tree has one right below
the root, they were its rows, and not a comment, a CDATA section or part of something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from blockyard.s3.dates import iso_date
from blockyard.s3.xml import check_limits

_BEGIN, _END = b"<Contents>", b"</Contents>"
_TEXT = r"[ -%'-;=?-~]*+"  # printable ASCII but for & < >
_UNQUOTED = r"[ !#-%'-;=?-~]*+"  # and but for the quote
_QUOTE = '(?:"|&quot;|&#34;)?+'
_OTHERS = "|".join(
    f"<{name}>{_TEXT}</{name}>"
    for name in ("StorageClass", "ChecksumAlgorithm", "ChecksumType", "Type")
)
_ROW = re.compile(
    f"<Contents><Key>({_TEXT})</Key><LastModified>({_TEXT})</LastModified>"
    f"<ETag>{_QUOTE}((?!W/){_UNQUOTED}){_QUOTE}</ETag>"
    f"(?:{_OTHERS})*+<Size>([0-9]{{1,18}})</Size>(?:{_OTHERS})*+</Contents>"
)


class Rows(NamedTuple):
    """The rows column by column, all as long: keys as written, sizes in bytes, bare ETags."""

    keys: list[str]
    sizes: Iterable[int]
    etags: Iterable[str]
    moments: Iterable[datetime | None]

    def behind_first(self) -> Rows:
        """The rows but for the first one."""
        return Rows(
            self.keys[1:],
            islice(self.sizes, 1, None),
            islice(self.etags, 1, None),
            islice(self.moments, 1, None),
        )


def cut_rows(body: bytes) -> tuple[bytes, Rows] | None:
    """The reply with one empty `<Contents/>` instead of its rows, and the rows.

    None when they are not written plainly, or there are none.
    """
    check_limits(body)
    begin, end = body.find(_BEGIN), body.rfind(_END) + len(_END)
    if begin < 0:
        return None
    # Before, between and after the rows, `split` leaves what it did not match.
    gaps_and_fields = _ROW.split(body[begin:end].decode("latin-1"))
    gaps, keys, dates, etags, sizes = (gaps_and_fields[column::5] for column in range(5))
    before, after = body[:begin], body[end:]
    if any(gaps) or b"Contents" in before or b"Contents" in after:
        return None
    rest = b"%b<Contents/>%b" % (before, after)
    return rest, Rows(keys, map(int, sizes), etags, map(iso_date, dates))
