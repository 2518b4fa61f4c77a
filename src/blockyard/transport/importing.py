"""Modules that few calls need, imported by the first of them.

A signal handler may raise into the middle of an import, or make a call there that would find half a
module. So it is done on a thread of its own, where no handler runs; a finalizer may run there, and
must not wait for the import.
"""

from __future__ import annotations

import threading
from functools import partial
from importlib import import_module
from types import ModuleType

from blockyard.errors import TransportError
from blockyard.transport.threads import (
    Call,
    outcome_of,
    start_thread,
    threads_are_over,
    wait_until_done,
)

_imported: dict[str, ModuleType] = {}
_importing: set[int] = set()
"""Threads that import."""


def imported(name: str) -> ModuleType:
    """The module, whole. Raises `TransportError` where it can't be imported."""
    module = _imported.get(name)
    if module is not None:
        return module
    if threading.get_ident() in _importing:
        raise TransportError(f"a finalizer made a call while its thread imports {name}")
    call = Call(partial(_import, name))
    if threads_are_over():
        call.run()
    else:
        try:
            start_thread(call.run, "blockyard")
        except RuntimeError as error:
            raise TransportError(f"no thread could be started: {error}") from error
    _ = wait_until_done(call, None)
    return outcome_of(call)


def _import(name: str) -> ModuleType:
    _importing.add(threading.get_ident())
    try:
        module = _imported[name] = import_module(name)
    except (ImportError, OSError) as error:  # the interpreter is ending; no descriptor is left
        raise TransportError(f"{name} can't be imported: {error}") from error
    else:
        return module
    finally:
        _importing.discard(threading.get_ident())
