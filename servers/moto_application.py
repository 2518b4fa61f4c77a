"""moto as a WSGI application, for gunicorn to import."""

from __future__ import annotations

from functools import cache
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app


class Dispatcher(DomainDispatcherApplication):
    """Finds out once to which service a host belongs: moto looks through a folder each time."""

    def get_backend_for_host(self, host: str | None) -> Any:
        return _backend(self, host)


@cache
def _backend(dispatcher: Dispatcher, host: str | None) -> Any:
    return DomainDispatcherApplication.get_backend_for_host(dispatcher, host)


application = Dispatcher(create_backend_app)
