"""An S3 store whose service says what a script has it say: no socket, and no real pause."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

from blockyard.config import S3Config
from blockyard.context import Context, Request, Response
from blockyard.errors import BlockStoreError
from blockyard.s3.credentials import Credentials, CredentialSource, StaticCredentials
from blockyard.s3.store import S3Store
from blockyard.stores.base import ReadRequest
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import PretendRuntime, PretendS3, encryption_of, reply

Result = TypeVar("Result")
Answer = Response | BaseException | Callable[[Request], Response]

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
"""The time of `PretendRuntime`'s clock when it begins."""
OK = reply(200, {"etag": '"e"'}, b"hello")
EMPTY = reply(204, {}, b"")
LISTING = reply(200, {}, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
"""Of an empty bucket."""


class Script(PretendS3):
    """Gives its answers in their order, the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers = list(answers)
        self.request_ids = False

    def answer(self, request: Request) -> Response:
        self.requests.append(replace(request, headers=dict(request.headers)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise copy(answer)  # the one that was raised before may have been told more
        if not isinstance(answer, Response):
            return answer(request)
        ids = {"x-amz-request-id": "R1"} if self.request_ids else {}
        return replace(answer, headers={**ids, **answer.headers, **encryption_of(request)})


class Scripted:
    """The store, and what became of its requests and pauses."""

    def __init__(
        self, *answers: Answer, credentials: CredentialSource | None = None, **settings: object
    ) -> None:
        self.script = Script(*answers)
        self.runtime = PretendRuntime(self.script)
        keys = StaticCredentials(Credentials("AKIDEXAMPLE", "the-secret", "the-token"))
        config = S3Config(
            bucket="bucket",
            **{"endpoint": "http://127.0.0.1:9", "force_path_style": True, **settings},  # pyright: ignore[reportArgumentType]
        )
        self.store = S3Store(config, credentials or keys)
        self.ctx = Context(self.runtime)

    @property
    def requests(self) -> list[Request]:
        return self.script.requests

    @property
    def pauses(self) -> list[float]:
        return self.runtime.pauses

    def read(self, key: str = "key") -> bytes:
        return self.run(self.store.read(self.ctx, ReadRequest(key))).data

    def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """The result; an error's unknown attempts have to be counted in the context as well."""
        before = self.ctx.unknown_attempts
        try:
            return run_to_end(operation)
        except BlockStoreError as error:
            if self.ctx.unknown_attempts - before < error.unknown_attempts:
                raise AssertionError("the context does not count them all") from error
            raise


def amazon(*answers: Answer) -> Scripted:
    """Scripted AWS, of which a store has nothing to find out."""
    s3 = Scripted(*answers, endpoint="", force_path_style=False)
    s3.script.request_ids = True
    return s3


def s3_error(status: int, code: str = "", message: str = "", **headers: str) -> Response:
    """An error reply; `_` in the names of its headers stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    return reply(status, named, body.encode())
