"""What single settings may be: pure functions on text, and one look at the file system.

Each returns the setting as it will be used, or raises a `ValueError` that says what is wrong
with it, never what it is: the value may be a secret, and whoever reports it knows.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address
from pathlib import Path

from blockyard.keys import MAX_KEY_BYTES
from blockyard.s3.regions import is_aws_host

_AWS_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
_DOTTED_QUAD = re.compile(r"\d+\.\d+\.\d+\.\d+")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]|\.(?!\.)){0,252}")
_ACCESS_KEY = re.compile(r"[!-~]+")
_PATH = re.compile(r"(/([A-Za-z0-9._~-]|%[0-9A-F]{2})+)*")
_NOT_BUCKETS = {
    "--x-s3": "a directory bucket (S3 Express) has sessions and listings of its own, which are not "
    "supported: use a general purpose bucket",
    "--xa-s3": "an access point of a directory bucket (S3 Express) is not supported: use a general "
    "purpose bucket",
    "--ol-s3": "an Object Lambda access point is not supported: use the bucket behind it",
    "--op-s3": "S3 on Outposts is not supported: use a bucket of a region",
    "--table-s3": "a table bucket holds tables, not blocks: use a general purpose bucket",
    ".mrap": "a multi-Region access point needs another kind of signature (SigV4A), which is not "
    "supported: use one of its buckets",
}
"""Endings that AWS reserves for what is reached in other ways, and what to use instead.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
"""


def check_one_line(text: str) -> str:
    """Refuse CR, LF and NUL: no setting may end a header, a log line or a file name early."""
    if any(character in text for character in "\r\n\0"):
        raise ValueError("CR, LF and NUL are not allowed")
    return text


def bucket_problem(name: str, endpoint: str) -> str:
    """Why `name` is no bucket at `endpoint`, by the rules of AWS or the older, wider ones of other
    services; "" where it may be one.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    host = endpoint.partition("://")[2].partition("/")[0].partition(":")[0]
    if name.startswith("arn:"):
        return (
            "an ARN is not supported: use the name of the bucket, or the alias of an access point, "
            "which ends in -s3alias"
        )
    if endpoint == "" or is_aws_host(host):
        for ending, reason in _NOT_BUCKETS.items():
            if name.endswith(ending):
                return reason
    if endpoint and not _BUCKET.fullmatch(name):
        return (
            "a name has 3 to 255 letters, digits, dots, hyphens and underscores, "
            "and begins with a letter or digit"
        )
    if endpoint == "" and (not _AWS_BUCKET.fullmatch(name) or ".." in name):
        return (
            "at AWS a name has 3 to 63 lower-case letters, digits, single dots and hyphens, "
            "and begins and ends with a letter or digit"
        )
    if endpoint == "" and _DOTTED_QUAD.fullmatch(name):
        return "at AWS a name can't look like an IP address"
    return ""


def check_region(name: str) -> str:
    """Refuse what can't stand in a host name or in the scope of a signature."""
    if not _REGION.fullmatch(name):
        raise ValueError("a region has 1 to 63 letters, digits, hyphens and underscores")
    return name


def check_key_prefix(text: str) -> str:
    """The prefix as a folder: it gets its `/` at the end, and leaves room for a key."""
    prefix = text if text == "" or text.endswith("/") else text + "/"
    size = len(prefix.encode())
    if size >= MAX_KEY_BYTES:
        raise ValueError(f"{size} bytes leave no room for a key: the limit is {MAX_KEY_BYTES}")
    return prefix


def check_token(text: str) -> str:
    """Refuse what can't stand in a header as one word: an access key, a session token."""
    _check_not_masked(text)
    if text and not _ACCESS_KEY.fullmatch(text):
        raise ValueError("only printable ASCII without spaces is allowed")
    return text


def check_access_key(text: str) -> str:
    """`check_token`, and none of the characters that end the key in the Authorization header."""
    if any(character in text for character in "/,="):
        raise ValueError("'/', ',' and '=' are not allowed")
    return check_token(text)


def check_secret(text: str) -> str:
    """Refuse the space or line end that a careless copy leaves at either end."""
    _check_not_masked(text)
    if text != text.strip():
        raise ValueError("it begins or ends with white space")
    return check_one_line(text)


def _check_not_masked(text: str) -> None:
    """Refuse what a secret is dumped as, when a configuration is written to JSON or printed."""
    if text and not text.strip("*"):
        raise ValueError("only asterisks: it was dumped without the secret, which has to be given")


def check_endpoint(text: str) -> str:
    """`http://HOST[:PORT][/PATH]`, `https://...`, or a bare `HOST...`, which gets its https.

    Empty, which means AWS, it stays. An IPv6 address stands in brackets (RFC 3986, 3.2.2). Some
    services live below a path, which is sent and signed as it stands here.
    """
    if text == "":
        return ""
    scheme, separator, location = text.partition("://")
    if not separator:
        scheme, location = "https", text
    if scheme.lower() not in {"http", "https"}:
        raise ValueError("the scheme is neither http nor https")
    if "@" in location:
        raise ValueError("credentials do not belong here: use access_key and secret_key")
    location, slash, path = location.partition("/")
    _check_location(location)
    path = (slash + path).rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(
            "the path may have segments of letters, digits, '-', '.', '_', '~' and percent-encoded "
            "bytes in upper case, but not '.' or '..' alone"
        )
    return f"{scheme}://{location}".lower() + path


def check_proxy(text: str) -> str:
    """`http://[USER:PASSWORD@]HOST[:PORT]`: a proxy is reached in the clear and asked to tunnel."""
    if text == "":
        return ""
    scheme, _, location = text.partition("://")
    if scheme.lower() != "http":
        raise ValueError("the scheme is not http")
    _check_location(location.rpartition("@")[2].removesuffix("/"))
    return text


def check_file(text: str) -> str:
    """The absolute path of a file that can be read; `~` is the home folder, "" stays ""."""
    if text == "":
        return ""
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isfile(path):
        raise ValueError("there is no such file")
    if not os.access(path, os.R_OK):
        raise ValueError("the file can't be read")
    return path


def check_folder(text: str) -> Path:
    """The absolute path of a folder, which need not exist yet; `~` is the home folder."""
    if text == "":
        raise ValueError("an empty path names no folder")
    return Path(os.path.abspath(os.path.expanduser(check_one_line(text))))


def _check_location(location: str) -> None:
    """Refuse all but `HOST` and `HOST:PORT`."""
    if location.startswith("["):
        host, bracket, rest = location[1:].partition("]")
        if not bracket or not _is_ipv6(host):
            raise ValueError("the brackets do not hold an IPv6 address")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = location.partition(":")
        if not _HOST.fullmatch(host):
            raise ValueError("only a host name and a port may follow the scheme")
    if colon and not (colon == ":" and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise ValueError("the port is not a number from 1 to 65535")


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except ValueError:
        return False
