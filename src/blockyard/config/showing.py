"""What errors show of the values and names that they are about: nothing that may hold a secret.

Secrets stand in settings that are known to be secret, and, by mistake, in every other place: in a
URL that is not recognised as one, as another setting's value, or as the name of a setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "a value that is not shown"
HIDDEN_NAME = "a name that is not shown"
_SHOWN_CHARACTERS = 60
_PLACES = re.compile(r"[@?#&=%]|:(?!//|[0-9]{1,5}(?:/|$)|$)")
"""Where URLs have user names, passwords, parameters, and ports that are none."""
_KEY = re.compile(r"[A-Za-z0-9/+_-]{28,}")
"""Made-up text, as long as keys are that services give out."""
_KINDS = ("[a-z]", "[A-Z]", "[0-9]")
_PLAIN_NAME = re.compile(r"[a-z_]{1,40}")
"""As names of settings are; keys are seldom."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_OF_THE_SYNTAX = re.compile(r"<[a-z ]+>|[^A-Za-z0-9]|\\?.|\\x[0-9a-f]{2}")
_WORD = re.compile(r"[^\s()'\"]+")


def shown(value: object) -> str:
    """`value` in an error: short, and not at all where it may hold a secret."""
    if value is None or (isinstance(value, str) and value == ""):
        return "nothing"
    if isinstance(value, str):
        if _may_be_secret(value):
            return HIDDEN
        return repr(value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "...")
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def shown_name(name: str, known: Iterable[str]) -> str:
    """The name of a setting that there is not, where it is near to a known one, or plain.

    What comes behind an `&` in a URL may be the rest of a secret.
    """
    return name if _PLAIN_NAME.fullmatch(name) or closest(name, known) else HIDDEN_NAME


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may be meant for."""
    from difflib import get_close_matches  # noqa: PLC0415 - for errors alone

    close = get_close_matches(name.lower()[:_SHOWN_CHARACTERS], list(known), n=1)
    return close[0] if close else None


def without_quotations(text: str) -> str:
    """A parser's own words, with no more of what it has read than single characters."""

    def cut(match: re.Match[str]) -> str:
        return match[0] if _OF_THE_SYNTAX.fullmatch(match[0][1:-1]) else "..."

    return _QUOTED.sub(cut, text)


def without_secrets(text: str) -> str:
    """`text`, without its words that may hold a secret."""
    return _WORD.sub(lambda match: "..." if _may_be_secret(match[0]) else match[0], text)


def _may_be_secret(text: str) -> bool:
    if _PLACES.search(text):
        return True
    if not _KEY.fullmatch(text):
        return False
    kinds = sum(re.search(kind, text) is not None for kind in _KINDS)
    is_path_or_name = text.startswith("/") or "-" in text
    return kinds >= (3 if is_path_or_name else 2)
