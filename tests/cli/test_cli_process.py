"""The command line as a process of its own: signals, pipes, and what it imports."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

import blockyard
from blockyard.sync import BlockStore

BLOCKYARD = [sys.executable, "-c", "from blockyard.cli import main; main()"]
DATA = random.Random(5).randbytes(17 << 20)  # noqa: S311 - the same every time

# The command as it is, over a store that takes its time.
SLOW = """
from blockyard.stores.filesystem import FilesystemStore as Store

def slowed(operation, seconds):
    async def slow(self, ctx, key, *rest, **options):
        await ctx.runtime.sleep(seconds)
        return await operation(self, ctx, key, *rest, **options)
    return slow

Store.write = slowed(Store.write, 0.2)
Store.read = slowed(Store.read, 20)
from blockyard.cli import main
main()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "blocks").as_uri()


@pytest.fixture
def store(url: str) -> Iterator[BlockStore]:
    with blockyard.open_store(url) as opened:
        yield opened


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as at_end:

        def started(*arguments: str, command: list[str] = BLOCKYARD) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "BLOCKYARD_STORE": url},
                cwd=tmp_path,
            )
            at_end.push(process)  # closes its pipes and waits
            at_end.callback(process.kill)
            return process

        yield started


def until(process: subprocess.Popen[bytes], condition: Callable[[], object]) -> None:
    """Wait for something that the process does; the test's own time limit ends it."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def open_files(process: subprocess.Popen[bytes]) -> str:
    """What the process has open; a file that has no name yet is there with its folder's."""
    folder = Path(f"/proc/{process.pid}/fd")
    with suppress(FileNotFoundError):  # one that was just closed
        return " ".join(os.readlink(folder / name) for name in os.listdir(folder))
    return ""


class TestPipes:
    def test_bytes_pass_through(self, start: Start) -> None:
        _, complaints = start("put", "-", "piped").communicate(DATA)
        assert complaints == b""
        for arguments in (["cat", "piped"], ["get", "piped", "-"], ["get", "piped", "/dev/stdout"]):
            output, complaints = start(*arguments).communicate()
            assert (output, complaints) == (DATA, b"")

    @pytest.mark.parametrize("arguments", [["cat", "big"], ["ls"]])
    def test_a_reader_that_stops_ends_the_command_quietly(
        self, start: Start, store: BlockStore, arguments: list[str]
    ) -> None:
        store.write_content("big", DATA)
        store.write_blocks((f"small/{index:080}", b"") for index in range(1100))
        process = start(*arguments)
        assert process.stdout
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait() == 141


class TestInterruptedPut:
    @pytest.mark.parametrize(
        ("number", "says", "code"),
        [(signal.SIGINT, b"interrupted", 130), (signal.SIGTERM, b"terminated", 143)],
    )
    def test_nothing_is_left_of_a_new_content(
        self, start: Start, store: BlockStore, number: int, says: bytes, code: int
    ) -> None:
        process = start("put", "-", "new")
        assert process.stdin
        process.stdin.write(DATA)
        process.stdin.flush()  # and no end of it: the command waits for more
        until(process, lambda: store.list_by_prefix("new/"))
        process.send_signal(number)
        assert process.wait() == code
        assert process.communicate() == (b"", b"blockyard: %s\n" % says)
        assert store.list_by_prefix() == []

    def test_the_old_content_is_kept(self, start: Start, store: BlockStore) -> None:
        store.write_content("old", DATA)
        before = list(store.iter_blocks())
        process = start("put", "-", "old")
        assert process.stdin
        process.stdin.write(DATA[::-1])
        process.stdin.flush()
        until(process, lambda: len(store.list_by_prefix("old/")) > len(before) - 1)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        process.communicate()
        assert list(store.iter_blocks()) == before
        assert store.read_content("old") == DATA

    def test_a_file_in_the_middle(self, start: Start, store: BlockStore, tmp_path: Path) -> None:
        with (tmp_path / "big").open("wb") as file:
            file.truncate(1 << 30)
        process = start("put", "big", "new", command=[sys.executable, "-c", SLOW])
        until(process, lambda: store.list_by_prefix("new/"))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        process.communicate()
        assert store.list_by_prefix() == []


@pytest.mark.thorough
class TestInterruptedGet:
    def test_the_file_is_as_it_was(self, start: Start, store: BlockStore, tmp_path: Path) -> None:
        store.write_content("movie", DATA)
        target = tmp_path / "out"
        target.mkdir()
        (target / "file").write_bytes(b"old")
        process = start("get", "movie", "out/file", command=[sys.executable, "-c", SLOW])
        until(process, lambda: str(target) in open_files(process))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        process.communicate()
        assert os.listdir(target) == ["file"]
        assert (target / "file").read_bytes() == b"old"

    def test_a_reader_that_stalls_does_not_hold_the_command(
        self, start: Start, store: BlockStore
    ) -> None:
        store.write_content("movie", DATA)
        process = start("cat", "movie")
        assert process.stdout
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        process.communicate()


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    stuck = SLOW.replace(
        "await ctx.runtime.sleep(seconds)", "open('stuck', 'w').close(); time.sleep(60)"
    )
    process = start("put", "file", "new", command=[sys.executable, "-c", "import time" + stuck])
    until(process, (tmp_path / "stuck").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # it waits for what it can't leave in order yet
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130


def test_a_signal_that_is_ignored_stays_so(start: Start, store: BlockStore) -> None:
    """As a shell starts what it runs in the background."""
    ignoring = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *BLOCKYARD]
    process = start("put", "-", "new", command=ignoring)
    assert process.stdin
    process.stdin.write(DATA)
    process.stdin.flush()
    until(process, lambda: store.list_by_prefix("new/"))
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert store.read_content("new") == DATA


def imports(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout
    return set(output.split())


def test_the_help_waits_for_nothing_that_it_does_not_need() -> None:
    loaded = imports("import blockyard.cli.app")
    assert not loaded & {"asyncio", "pydantic", "rich", "yaml", "httptools", "ssl", "botocore"}


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_what_is_not_installed_is_said_in_one_line(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from blockyard.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "ls"], capture_output=True, check=False, text=True
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"blockyard: the command line needs {missing}: pip install 'blockyard[cli]'\n"
    )
