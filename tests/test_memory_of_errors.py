"""What a call failed with is gone with its last name, and so are the variables of its callers.

The frames of all of them are in the error's traceback, and wait for the collector where one of
these has the error. `test_raised_variables.py` looks for the same in the source.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from weakref import ref

import pytest

import blockyard
from blockyard import PutOptions
from blockyard.context import Request, Response
from blockyard.errors import TransportConnectionError, TransportError
from blockyard.stores.base import ReadRequest, WriteRequest
from blockyard.transport.blocking import run_to_end
from blockyard.user_code import pass_on_foreign
from tests.clients.test_memory_of_failures import no_collector
from tests.s3.pretend import Pretended, reply, s3_error
from tests.s3.pretend_uploads import Uploading, short
from tests.s3.scripted_service import Scripted


class Held(bytearray):
    """What a caller has, and may be watched."""


def fails(call: Callable[[], object]) -> ref[Held]:
    """To what this call's frame had, in which the call failed."""
    held = Held(b"data")
    try:
        _ = call()
    except Exception:  # noqa: BLE001 - whatever it is
        return ref(held)
    raise AssertionError("it did not fail")


def check(call: Callable[[], object]) -> None:
    with no_collector():
        assert fails(call)() is None


def test_options_that_a_store_can_not_keep() -> None:
    with blockyard.open_store("memory://") as store:
        options = PutOptions(storage_class="GLACIER")
        check(lambda: store.write_block("k", b"data", options=options))


def test_encryption_that_a_service_ignores() -> None:
    s3 = Scripted(lambda _: reply(200, {"etag": '"e"'}, b""))
    options = PutOptions(encryption="AES256")
    check(lambda: s3.run(s3.store.write(s3.ctx, WriteRequest("k", b"data", options=options))))


def test_what_a_signal_handler_raises_where_the_system_may_fail() -> None:
    def interrupted() -> None:
        try:
            raise TimeoutError
        except OSError as error:
            pass_on_foreign(error)

    check(interrupted)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with a content whose manifest is damaged."""
    with blockyard.open_store(tmp_path.as_uri()) as store:
        _ = store.write_content("c", b"data")
    _ = (tmp_path / "c.blockyard=").write_bytes(b"no manifest")
    return tmp_path


def test_a_content_that_is_damaged(damaged: Path) -> None:
    with blockyard.open_store(damaged.as_uri()) as store:
        check(lambda: store.read_content("c"))
        check(lambda: store.write_content("c", b"new", if_absent=True))
        check(lambda: store.write_content("c", b"new", if_match="version"))


def test_a_range_that_is_refused_though_it_is_there() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    s3.service.always = lambda request, sent: (
        sent if request.method == "HEAD" else s3_error(416, "InvalidRange")
    )
    check(lambda: run_to_end(s3.store.read(s3.ctx, ReadRequest("k", 1, 2))))


Twisted = Callable[[Request, Response], Response | TransportError]
ENDS: dict[str, Twisted] = {
    "refused": lambda request, sent: (
        s3_error(403, "AccessDenied") if short(request) == "complete" else sent
    ),
    "not known": lambda request, sent: (
        TransportConnectionError("reset") if short(request) in {"complete", "HEAD"} else sent
    ),
    "gone": lambda request, sent: (
        s3_error(404, "NoSuchUpload") if short(request) in {"complete", "HEAD"} else sent
    ),
}


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("twist", ENDS.values(), ids=ENDS)
def test_an_upload(twist: Twisted, conditional: bool) -> None:
    """A conditional one is tried out with an object made for that, which fails as well."""
    s3 = Uploading(of_aws=not conditional, max_attempts=2)
    s3.s3.always = twist
    check(lambda: s3.upload(if_absent=conditional))


def test_one_that_meets_another() -> None:
    s3 = Uploading()
    opened = s3.start(if_absent=True)
    parts = s3.send(opened)
    s3.write("k", b"of another")
    check(lambda: s3.complete(opened, parts))


def test_deletes_of_which_none_was_tried() -> None:
    s3 = Scripted(s3_error(403, "AccessDenied"))
    check(lambda: s3.run(s3.store.delete_blocks(s3.ctx, ["k", "l"])))
