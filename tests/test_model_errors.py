"""The error tree, and the values that operations return."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from blockyard import errors
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    PartialDeleteError,
    S3Error,
    TransportConnectionError,
)
from blockyard.model import BlockInfo, DeleteResult, HealthReport, Page

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, BlockStoreError)
}
REQUIRED: dict[str, Any] = {
    "message": "the message",
    "result": DeleteResult(["a"], {"b": BlockNotFoundError("b")}),
    "headers": {"etag": "x"},
    "status": 503,
    "size": 7,
    "received": 3,
    "expected": 9,
    "partial": b"abc",
    "cause": TransportConnectionError("reset"),
}


def made(kind: type[BlockStoreError]) -> BlockStoreError:
    """An error of that kind, with every argument that it insists on."""
    if "__init__" not in vars(kind) and kind.__init__ is BlockStoreError.__init__:
        return kind("the message")
    parameters = [*inspect.signature(kind.__init__).parameters.values()][1:]
    arguments = {
        each.name: REQUIRED[each.name]
        for each in parameters
        if each.default is each.empty
        and each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)
    }
    return kind(**arguments) if arguments else kind("the message")


def drawn_tree() -> dict[str, tuple[str, str]]:
    """The docstring's tree: each error's parent there, and the built-in named beside it."""
    tree: dict[str, tuple[str, str]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"^    ([ │├└─]*)(\w+Error)(?: +\((\w+)\))?", line)
        if drawn is None:
            continue
        depth, name, builtin = len(drawn[1]), drawn[2], drawn[3] or ""
        above = [(other, parent) for other, parent in above if other < depth]
        tree[name] = (above[-1][1] if above else "", builtin)
        above.append((depth, name))
    return tree


def test_the_tree_is_drawn_as_it_is() -> None:
    tree = drawn_tree()

    assert set(tree) == set(CLASSES)
    for name, (parent, builtin) in tree.items():
        bases = [base.__name__ for base in CLASSES[name].__bases__]
        assert bases == [each for each in (parent or "Exception", builtin) if each]
        assert not builtin or issubclass(getattr(builtins, builtin), Exception)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_errors_are_documented_and_say_their_message(kind: type[BlockStoreError]) -> None:
    assert kind.__doc__
    assert str(made(kind)) == "the message"


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_errors_come_back_from_another_process(kind: type[BlockStoreError]) -> None:
    error = made(kind)
    error.add_note("attempt 1: reset")

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert type(again) is kind
        assert str(again) == "the message"
        assert again.__notes__ == ["attempt 1: reset"]
        assert repr(vars(again)) == repr(vars(error))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (BlockNotFoundError, LookupError),
        (errors.InvalidKeyError, ValueError),
        (errors.ConfigError, ValueError),
        (TransportConnectionError, ConnectionError),
        (DeadlineExceededError, TimeoutError),
    ],
)
def test_python_s_own_errors_fit(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_a_missing_block_is_no_missing_bucket() -> None:
    assert not issubclass(errors.BucketNotFoundError, BlockNotFoundError)
    assert not issubclass(BlockNotFoundError, S3Error)


def test_a_delete_result_raises_for_its_failures() -> None:
    DeleteResult(["a"]).raise_for_failures()
    result = DeleteResult(["a", "b"], {"c": BlockStoreError("denied"), "d": BlockStoreError("")})

    with pytest.raises(
        PartialDeleteError, match=r"2 of 4 keys .* the first is 'c': denied"
    ) as some:
        result.raise_for_failures()

    assert some.value.result is result
    assert some.value.unknown_attempts == 0


def test_a_request_for_many_keys_is_one_attempt() -> None:
    lost, again, refused = BlockStoreError("lost"), BlockStoreError("lost"), BlockStoreError("no")
    lost.unknown_attempts, again.unknown_attempts = 2, 1
    failed = {"a": lost, "b": lost, "c": again, "d": refused}
    assert PartialDeleteError("", DeleteResult([], failed)).unknown_attempts == 3


def test_results_do_not_share_their_defaults() -> None:
    assert DeleteResult().deleted is not DeleteResult().deleted
    assert DeleteResult().failed is not DeleteResult().failed


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (BlockInfo("a", 1, "e"), "key"),
        (BlockInfo("a", 1, "e"), "another"),
        (Page([], None), "blocks"),
        (DeleteResult(), "deleted"),
        (HealthReport(0.1, "memory"), "latency"),
    ],
)
def test_values_can_not_be_changed(value: object, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, name, "other")
