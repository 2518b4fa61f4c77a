"""The commands. Each is a function of an open store; `session.py` opens it and reports errors."""

# Annotations are not postponed here: typer reads them when a command is defined.

import errno
import os
import stat as stat_module
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from blockyard import __version__
from blockyard.cli import exits
from blockyard.cli.bench import bench
from blockyard.cli.cache import cache
from blockyard.cli.lookup import is_content, keys_to_delete, named_in_error
from blockyard.cli.output import (
    describe,
    exact,
    json_row,
    progress_bar,
    report_as_json,
    report_as_text,
    row,
    say,
    shown,
    time_text,
    watched,
)
from blockyard.cli.process import StandardInput, StandardOutput, escaped, nothing_to_tidy
from blockyard.cli.session import (
    ConfigOption,
    DebugOption,
    Options,
    StoreOption,
    key_text,
    not_empty,
    prefix_text,
    with_store,
)
from blockyard.content.targets import own_descriptor
from blockyard.model import MAX_SECONDS, Method

if TYPE_CHECKING:
    from blockyard.sync import BlockStore

app = typer.Typer(
    cls=exits.Commands,
    rich_markup_mode=None,  # the plain help needs no rich, which takes long to import
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Blocks and contents on S3 and its like, in a folder, or in memory.\n\n" + exits.HELP,
)

app.add_typer(cache, name="cache")


def _key(metavar: str, meaning: str) -> Any:
    return typer.Argument(metavar=metavar, callback=key_text, help=meaning)


def _file(meaning: str) -> Any:
    return typer.Argument(metavar="FILE", callback=not_empty, help=meaning)


def _prefix(meaning: str) -> Any:
    return typer.Argument(metavar="PREFIX", callback=prefix_text, help=meaning)


ContentId = Annotated[str, _key("CONTENT_ID", "The content's name.")]
Name = Annotated[str, _key("NAME", "A content's name, or the key of a block or object.")]
Key = Annotated[str, _key("KEY", "The block's key.")]
Prefix = Annotated[str, _prefix("What keys begin with.")]


def _not_all(given: str) -> str:
    if given == "":
        raise typer.BadParameter("an empty prefix would delete every block: expected some text")
    return prefix_text(given)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"blockyard {__version__}")
        raise typer.Exit


def _method_of(given: str) -> str:
    if given.upper() not in get_args(Method):
        raise typer.BadParameter(f"expected {', '.join(get_args(Method))}")
    return given.upper()


@app.callback()
def options(
    context: typer.Context,
    store: StoreOption = None,
    config: ConfigOption = None,
    debug: DebugOption = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    context.obj = Options(store, config, debug)


@app.command()
@with_store
def put(
    store: "BlockStore",
    file: Annotated[str, _file("A file, or - for standard input.")],
    content_id: ContentId,
    as_object: Annotated[
        bool, typer.Option("--object", help="As one object under that key, which any tool reads.")
    ] = False,
) -> None:
    """Store a file as a content, in blocks of 4 MiB.

    With --object as a plain object, by a multipart upload where it is large. A put that is
    interrupted leaves what was there before, or nothing.
    """
    source = StandardInput() if _is_stream(file, 0) else file
    total = _size_of(source) if isinstance(source, str) else None
    with progress_bar(f"put {content_id}", total) as progress:
        if as_object:
            _ = store.write_object(content_id, source, progress=progress)
        else:
            _ = store.write_content(content_id, source, progress=progress)


@app.command()
@with_store
def get(
    store: "BlockStore",
    name: Name,
    file: Annotated[str, _file("A file, or - for standard output.")],
) -> None:
    """Read a content, or a block or object, into a file, which appears when it is whole."""
    if _is_stream(file, 1):
        _write_out(store, "get", name, 0, None)
        return
    content = is_content(store, "get", name)
    total = None
    if watched():
        total = store.stat_content(name).size if content else store.stat_block(name).size
    with progress_bar(f"get {name}", total) as progress:
        if content:
            _ = store.read_content_into(name, file, progress=progress)
        else:
            _ = store.read_object_into(name, file, progress=progress)


@app.command()
@with_store
def cat(
    store: "BlockStore",
    name: Name,
    offset: Annotated[int, typer.Option(min=0, help="The first byte.")] = 0,
    length: Annotated[int | None, typer.Option(min=0, help="How many bytes.")] = None,
) -> None:
    """Write a content, or a block or object, or a range of it, to standard output."""
    _write_out(store, "cat", name, offset, length)


@app.command()
@with_store
def ls(
    store: "BlockStore",
    prefix: Prefix = "",
    contents: Annotated[bool, typer.Option("--contents", "-c", help="Contents instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List blocks, or contents: size, time of the last change in UTC, key or content id."""
    show = json_row if as_json else row
    for listed in store.list_contents(prefix) if contents else store.iter_blocks(prefix):
        say(show(listed))


@app.command()
@with_store
def stat(store: "BlockStore", key: Key) -> None:
    """Show what is known of a block, or of a content."""
    if store.block_exists(key):
        block = store.stat_block(key)
        modified = time_text(block.last_modified)
        describe(block=key, size=exact(block.size), etag=block.etag, modified=modified)
        optional = {"type": block.content_type, "class": block.storage_class}
        describe(**{name: value for name, value in optional.items() if value})
        for name, value in (block.metadata or {}).items():
            describe(metadata=f"{name}={value}")
        return
    with named_in_error("stat", key):
        content = store.stat_content(key)
    modified = time_text(content.last_modified)
    describe(content=key, size=exact(content.size), modified=modified)


@app.command()
@with_store
def presign(
    store: "BlockStore",
    key: Key,
    method: Annotated[
        str, typer.Option(callback=_method_of, help="GET, HEAD, PUT or DELETE.")
    ] = "GET",
    expires: Annotated[
        float, typer.Option(min=1, max=MAX_SECONDS, help="For how many seconds it holds.")
    ] = 3600.0,
) -> None:
    """Print a URL by which anybody may read a block, or do what --method says.

    Headers that have to be sent with it come after it, one a line.
    """
    request = store.presign(key, cast("Method", method), expires)
    say(shown(request.url))
    for name, value in request.headers.items():
        say(shown(f"{name}: {value}"))


@app.command()
@with_store
def cp(
    store: "BlockStore",
    source: Annotated[str, _key("SRC", "A block or a content.")],
    target: Annotated[str, _key("DST", "The name of the copy.")],
) -> None:
    """Copy a block or a content inside the service, replacing what has the name."""
    if store.block_exists(source):
        _ = store.copy_block(source, target)
        return
    with named_in_error("cp", source):
        total = store.stat_content(source).size
        with progress_bar(f"cp {source}", total) as progress:
            _ = store.copy_content(source, target, progress=progress)


@app.command()
@with_store
def rm(
    store: "BlockStore",
    name: Annotated[
        str,
        typer.Argument(
            metavar="KEY_OR_PREFIX",
            callback=_not_all,
            help="A block, a content, or with -r a prefix.",
        ),
    ],
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-r", help="Delete every block below the prefix: asks first."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be deleted.")
    ] = False,
) -> None:
    """Delete a block, a content, or all blocks below a prefix.

    The prefix share1 is that of share1 itself and of all below share1/, but not of share10.
    """
    keys = keys_to_delete(store, name, recursive=recursive)
    if dry_run:
        for key in keys or [name]:
            say(shown(key))
        return
    if recursive and not yes:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input: it is closed: nobody can be asked; see -y")
        question = f"Delete {_counted(keys)} below {escaped(name)}?"
        _ = typer.confirm(question, abort=True, err=True)
    if not keys:
        store.delete_content(name)
        say("deleted 1 content")
        return
    _ = store.delete_blocks(keys)
    say(f"deleted {_counted(keys)}")


@app.command()
@with_store
def adopt(store: "BlockStore", content_id: ContentId) -> None:
    """Give a content in the plain layout, which another system wrote, a manifest."""
    info = store.adopt_content(content_id)
    say(f"adopted {shown(content_id)}: {exact(info.size)} in {info.blocks} blocks")


@app.command()
@with_store
def clean(
    store: "BlockStore",
    prefix: Annotated[str, _prefix("What ids begin with.")] = "",
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it; without this it is only shown.")
    ] = False,
    no_writers: Annotated[
        bool,
        typer.Option("--no-writers", help="Nobody writes there now: its age is no matter."),
    ] = False,
) -> None:
    """Show what is left of contents, of writes that were killed and of what was replaced.

    Blocks that no content names are removed a day after they were stored, what was replaced after
    half an hour, tombstones of deleted contents after ten minutes, and the parts of an upload that
    was never completed a day after it began. Exits with 1 when a manifest is damaged: nothing of
    that content is touched.
    """
    report = store.clean_contents(prefix, dry_run=not delete, no_writers=no_writers)
    for state, leftovers in (("kept", report.kept), ("removed", report.removed)):
        for each in leftovers:
            what = shown(f"{each.what} {each.generation}".rstrip())
            said = state if delete or state == "kept" else "to remove"
            blocks = "" if each.what == "upload" else f": {each.blocks} blocks"
            say(f"{said}: {shown(each.content_id)}: {what}{blocks}")
    for content_id, error in report.damaged.items():
        say(f"damaged: {shown(content_id)}: {shown(str(error))}")
    say(f"{'removed' if delete else 'to remove'}: {exact(report.size)}")
    if report.damaged:
        raise typer.Exit(exits.FAILED)


@app.command()
@with_store
def health(store: "BlockStore") -> None:
    """Show that the bucket or folder can be used, and how long the answer took."""
    report = store.health_check()
    server = f", {shown(report.server)}" if report.server else ""
    say(f"{shown(report.store)}: ok, {report.latency * 1000:.1f} ms{server}")


@app.command()
@with_store
def verify(
    store: "BlockStore",
    prefix: Prefix = "",
    as_json: Annotated[bool, typer.Option("--json", help="The report as a JSON object.")] = False,
) -> None:
    """Read every block below a prefix and verify it against its checksums.

    Exits with 1 when a block is damaged or can't be read. Blocks that nothing is known of, as in a
    folder, are counted, and are no failure.
    """
    with progress_bar(f"verify {prefix}".rstrip(), None) as progress:
        report = store.verify_by_prefix(prefix, progress=progress)
    say(report_as_json(report) if as_json else report_as_text(report))
    if report.damaged or report.unreadable:
        raise typer.Exit(exits.FAILED)


_ = app.command()(bench)


def _counted(keys: list[str]) -> str:
    return "1 block" if len(keys) == 1 else f"{len(keys)} blocks"


def _write_out(
    store: "BlockStore", command: str, name: str, offset: int, length: int | None
) -> None:
    with nothing_to_tidy():
        output = StandardOutput()
        if is_content(store, command, name):
            _ = store.read_content_into(name, output, offset=offset, length=length)
        else:
            _ = store.read_object_into(name, output, offset=offset, length=length)


def _is_stream(file: str, number: int) -> bool:
    """Whether an argument means standard input (0) or output (1): -, /dev/stdin and the like."""
    return file == "-" or own_descriptor(file) == number


def _size_of(path: str) -> int | None:
    """The size of a regular file, for the progress bar; of others nobody knows it."""
    try:
        status = os.stat(path)
    except OSError:
        return None  # reading it says what is wrong
    is_known = stat_module.S_ISREG(status.st_mode) and status.st_size > 0  # /proc says 0 of all
    return status.st_size if is_known else None
