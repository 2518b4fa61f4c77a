"""moto as a WSGI application, for gunicorn to import."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.responses import S3Response

_LOCKS = tuple(threading.Lock() for _ in range(64))
_CHANGES = ("put_object", "copy_object", "delete_object", "_key_response_post")


class Dispatcher(DomainDispatcherApplication):
    """Finds out once to which service a host belongs: moto looks through a folder each time."""

    def get_backend_for_host(self, host: str | None) -> Any:
        return _backend(self, host)


@cache
def _backend(dispatcher: Dispatcher, host: str | None) -> Any:
    return DomainDispatcherApplication.get_backend_for_host(dispatcher, host)


def _one_at_a_time(change: Callable[..., Any]) -> Callable[..., Any]:
    """The change of a key, whole before the next: moto lets others between a check and a store."""

    @wraps(change)
    def alone(response: Any, *args: Any) -> Any:
        key = response.bucket_name, response.parse_key_name()
        with _LOCKS[hash(key) % len(_LOCKS)]:
            return change(response, *args)

    return alone


for _name in _CHANGES:
    setattr(S3Response, _name, _one_at_a_time(getattr(S3Response, _name)))

application = Dispatcher(create_backend_app)
