"""What all commands share: the options that name the store, and the store opened from them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, NamedTuple, ParamSpec, cast

import typer

from blockyard.cli.exits import reported
from blockyard.errors import ConfigError
from blockyard.managing import contextmanager

if TYPE_CHECKING:
    from blockyard.sync import BlockStore

Parameters = ParamSpec("Parameters")


def not_empty(value: str | None) -> str | None:
    """Refuse an empty argument: an empty path would be the working folder."""
    if value == "":
        raise typer.BadParameter("expected some text, got nothing: perhaps a variable is not set")
    return value


def prefix_text(value: str) -> str:
    """What keys begin with, as it was given in UTF-8, also in a locale that has none (LC_ALL=C)."""
    if value.isascii() or not any("\udc80" <= each <= "\udcff" for each in value):
        return value
    try:
        return os.fsencode(value).decode()
    except UnicodeError:
        return value  # which is refused


def key_text(value: str) -> str:
    """A key or the name of a content, as `prefix_text`; not an empty one."""
    _ = not_empty(value)
    return prefix_text(value)


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="s3://BUCKET/PREFIX?endpoint=..., file:///FOLDER or memory://; else the environment "
        "variable BLOCKYARD_STORE, else a folder of the user's.",
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        callback=not_empty,
        help="A YAML file that names the store.",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error as well.")
]


class Options(NamedTuple):
    """The options that every command takes, before or after its name."""

    store: str | None = None
    config: str | None = None
    debug: bool = False

    def over(self, others: Options) -> Options:
        """These where they are given, the others elsewhere."""
        given = self.store is not None or self.config is not None
        source = self if given else others
        return Options(source.store, source.config, self.debug or others.debug)


def with_store(
    function: Callable[Concatenate[BlockStore, Parameters], None],
) -> Callable[..., None]:
    """A command from a function of an open store, which is closed after it.

    The command takes the options that name the store besides the function's own parameters
    (which typer reads from the signature); what the function raises becomes its exit code.
    """

    @functools.wraps(function)
    def command(
        context: typer.Context, store: str | None, config: str | None, debug: bool, **own: Any
    ) -> None:
        options = Options(store, config, debug).over(context.obj)
        with reported(debug=options.debug), _opened(options) as blocks:
            cast("Callable[..., None]", function)(blocks, **own)

    parameters = [
        *list(inspect.signature(function).parameters.values())[1:],
        _shared("context", typer.Context, inspect.Parameter.empty),
        _shared("store", StoreOption, None),
        _shared("config", ConfigOption, None),
        _shared("debug", DebugOption, False),
    ]
    described = cast("Any", command)
    described.__signature__ = inspect.Signature(parameters)
    described.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _shared(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


@contextmanager
def _opened(options: Options) -> Generator[BlockStore]:
    if options.store is not None and options.config is not None:
        raise ConfigError("--store and --config: expected one of them, got both")
    if options.store is not None and not options.store.strip():
        raise ConfigError("--store: expected a URL, got nothing: is a variable not set?")
    from blockyard.opening import open_store  # noqa: PLC0415 - `--help` need not wait for it

    file = Path(options.config) if options.config else None
    with open_store(options.store or file or _default_source()) as store:
        yield store


def _default_source() -> str | None:
    """The store's source without --store and --config; None leaves it to BLOCKYARD_STORE.

    Without that it is a folder by the XDG base directories.
    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    if os.environ.get("BLOCKYARD_STORE"):
        return None
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        data = _home() / ".local" / "share"
    return (data / "blockyard").as_uri()


def _home() -> Path:
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry for this user, as in many containers
        home = Path()
    if not home.is_absolute():
        raise ConfigError(
            "no store is named, by --store, --config or BLOCKYARD_STORE, and there is no home "
            "directory for the default one: HOME is not set"
        )
    return home
