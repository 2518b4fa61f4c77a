"""What errors show of values and names: never what may hold a secret, and else what helps."""

from __future__ import annotations

import pytest

from blockyard.config.showing import (
    HIDDEN,
    HIDDEN_NAME,
    shown,
    shown_name,
    without_quotations,
    without_secrets,
)

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
"""The one of AWS's own documentation."""


@pytest.mark.parametrize(
    "text",
    [
        AWS_SECRET,
        "je7MtGbClwBF2Zp9Utkh3yCo8nvbEXAMPLEKEY",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "eW91ci1zZWNyZXQta2V5LW9mLTMyLWJ5dGVz-_",
        "AKIA:secret",
        "http://user:secret@host",
        "http://host:secret",
        "http://host:123456",
        "http://host#secret",
        "s3:/bucket?secret_key=secret",
        "secret_key=secret",
        "a&secret",
        "AKIA%3Asecret",
    ],
)
def test_what_may_be_a_secret_is_not_shown(text: str) -> None:
    assert shown(text) == HIDDEN
    assert text not in without_secrets(f"Got unexpected extra argument ({text})")


@pytest.mark.parametrize(
    "text",
    [
        "eu central 1",
        "My_Bucket",
        "a-bucket-with-a-name-of-many-words-2026",
        "ftp://host/path",
        "localhost:99999",
        "http://localhost:0/x",
        "host:",
        "/etc/ssl/certs/ca-certificates.crt",
        "/home/user1/certificates/of/mine",
        "1.5GiB",
        "sometimes",
    ],
)
def test_what_is_none_is_shown(text: str) -> None:
    assert shown(text) == repr(text)
    assert without_secrets(f"No such command '{text}'.") == f"No such command '{text}'."


def test_other_values() -> None:
    assert shown(None) == shown("") == "nothing"
    assert [shown(each) for each in (True, 1.5, 7)] == ["True", "1.5", "7"]
    assert shown(10**30) == "a value of type int"
    assert shown([AWS_SECRET]) == "a value of type list"


def test_names_are_shown_that_are_plain_or_near_to_known_ones() -> None:
    known = ["region", "secret_key", "max_attempts"]
    for name in ("regoin", "Region", "SECRETKEY", "max_attempts2", "nonsense", "a_b"):
        assert shown_name(name, known) == name
    for name in ("K7MDENG", "bPx", "x9", "K7-MDENG", AWS_SECRET, "a" * 41, "", "a b"):
        assert shown_name(name, known) == HIDDEN_NAME


def test_a_parser_s_words_are_shown_without_what_it_read() -> None:
    for kept in (
        "found character '\\t' that cannot start any token",
        "found unknown escape character 'S'",
        "expected ',' or ']', but got '<scalar>'",
        "expected <block end>, but found '<block mapping start>'",
    ):
        assert without_quotations(kept) == kept
    assert without_quotations("undefined tag handle '!secret!'") == "undefined tag handle ..."
    assert without_quotations("first \"secret\" and 'secret'") == "first ... and ..."
