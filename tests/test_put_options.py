"""`PutOptions`: what each field may be, and what is said of what it may not."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from blockyard import PutOptions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"content_type": ""}, "content_type: expected printable ASCII"),
        ({"content_type": "a\r\nx-amz-acl: public-read"}, "content_type: expected printable"),
        ({"cache_control": " no-store"}, "cache_control: expected printable"),
        ({"content_disposition": "grün"}, "content_disposition: expected printable"),
        ({"storage_class": "standard"}, "storage_class: expected a storage class"),
        ({"encryption": "aes256"}, "encryption: expected AES256, aws:kms or"),
        ({"encryption": "AES256", "kms_key_id": "k"}, "encryption: expected aws:kms or"),
        ({"encryption": "AES256", "kms_context": {"a": "b"}}, "encryption: expected aws:kms or"),
        ({"acl": "everyone"}, "acl: expected one of private, public-read"),
        ({"metadata": {"Name": "x"}}, "metadata: expected names of lower-case letters"),
        ({"metadata": {"a:b": "x"}}, "metadata: expected names of lower-case letters"),
        (
            {"metadata": {"blockyard-sums": "x"}},
            "metadata: expected names that do not begin",
        ),
        ({"metadata": {"a": "x\ny"}}, r"metadata\['a'\]: expected printable"),
        ({"metadata": {"a": "x "}}, r"metadata\['a'\]: expected printable"),
        ({"tags": {str(n): "" for n in range(11)}}, "tags: expected at most 10 tags, got '11'"),
        ({"tags": {"a": "\ud800"}}, "tags: expected text that UTF-8 can hold"),
        ({"tags": {"": "x"}}, "tags: expected names of 1 to 128"),
        ({"tags": {"a": "x" * 257}}, r"tags\['a'\]: expected values of at most 256"),
    ],
)
def test_what_a_field_may_not_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _ = PutOptions(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"content_type": b"text/plain"}, "content_type: expected a text, got bytes"),
        ({"metadata": "a=b"}, "metadata: expected a mapping, got str"),
        ({"metadata": {"a": 1}}, r"metadata\['a'\]: expected texts, got int"),
        ({"tags": {1: "a"}}, "tags: expected texts, got int"),
        ({"kms_context": ["a"]}, "kms_context: expected a mapping, got list"),
    ],
)
def test_of_what_type_a_field_is(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        _ = PutOptions(**options)


def test_what_was_given_may_change_without_a_trace() -> None:
    metadata = {"a": "b"}
    options = PutOptions(metadata=metadata)
    metadata["c: 1\r\nx-evil"] = "1"
    assert options.given() == {"metadata": {"a": "b"}}
    assert hash(options) == hash(PutOptions(metadata={}))


def test_what_is_set_is_given() -> None:
    options = PutOptions(content_type="text/plain", metadata={"a": ""}, tags={"ä": "ö"})
    assert options.given() == {
        "content_type": "text/plain",
        "metadata": {"a": ""},
        "tags": {"ä": "ö"},
    }
    assert PutOptions().given() == {}
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301
