"""What single settings may be: pure functions on text, and one look at the file system.

Each returns the setting as it will be used, or raises a `ValueError` that says what is wrong
with it, never what it is: the value may be a secret, and whoever reports it knows.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from blockyard.keys import MAX_KEY_BYTES
from blockyard.s3.endpoints import is_aws_host, parse_endpoint, parse_location

_AWS_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
_DOTTED_QUAD = re.compile(r"\d+\.\d+\.\d+\.\d+")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_ACCESS_KEY = re.compile(r"[!-~]+")
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
    """The endpoint as a URL with its scheme, in lower case but for its path; "", AWS, stays."""
    if text == "":
        return ""
    _, path = parse_endpoint(text)
    scheme, separator, location = text.partition("://")
    if not separator:
        scheme, location = "https", text
    return f"{scheme}://{location.partition('/')[0]}".lower() + path


def check_proxy(text: str) -> str:
    """`http://[USER:PASSWORD@]HOST[:PORT]`: a proxy is reached in the clear and asked to tunnel."""
    if text == "":
        return ""
    scheme, _, location = text.partition("://")
    if scheme.lower() != "http":
        raise ValueError("the scheme is not http")
    _ = parse_location(location.rpartition("@")[2].removesuffix("/"))
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
