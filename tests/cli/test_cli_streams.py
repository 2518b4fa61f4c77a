"""The command line over standard streams that are closed, full, or can't say what they are to.

Each run is a process of its own, started by a shell as a user's is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import blockyard
from blockyard.model import BLOCK_SIZE
from blockyard.testing.samples import content

pytestmark = pytest.mark.thorough

DATA = content(BLOCK_SIZE + 100)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    with blockyard.open_store((tmp_path / "blocks").as_uri()) as store:
        store.write_content("movie", DATA)
        store.write_block("ä/→", b"block")
    kept = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LANG")}
    return kept | {"BLOCKYARD_STORE": (tmp_path / "blocks").as_uri()}


def shell(
    line: str, env: dict[str, str], cwd: Path, data: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell in which `blockyard` is the command."""
    function = f'blockyard() {{ "{sys.executable}" -m blockyard "$@"; }}; {line}'
    return subprocess.run(
        ["/bin/sh", "-c", function], env=env, cwd=cwd, input=data, capture_output=True, check=False
    )


EVERY_OUTPUT = ["ls", "stat movie", "cat movie", "get movie /dev/stdout", "health", "verify"]
EVERY_OUTPUT += ["rm -n movie", "--version", "--help"]


@pytest.mark.parametrize("command", EVERY_OUTPUT)
class TestOutput:
    def test_that_is_closed(self, env: dict[str, str], tmp_path: Path, command: str) -> None:
        result = shell(f"blockyard {command} >&-", env, tmp_path)
        if command == "--help":  # which has nothing else to do
            assert result.returncode in (0, 1)
            assert b"Traceback" not in result.stderr
            return
        assert result.stderr == b"blockyard: standard output: it is closed\n"
        assert result.returncode == 1

    def test_that_is_full(self, env: dict[str, str], tmp_path: Path, command: str) -> None:
        result = shell(f"blockyard {command} >/dev/full", env, tmp_path)
        assert result.returncode == 1
        [line] = result.stderr.splitlines()
        assert line.startswith(b"blockyard: ")
        assert line.endswith(b"No space left on device")


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_errors_that_nobody_can_be_told(env: dict[str, str], tmp_path: Path, where: str) -> None:
    result = shell(f"blockyard ls >/dev/full {where}", env, tmp_path)
    assert (result.returncode, result.stderr) == (1, b"")


LATIN = {"PYTHONIOENCODING": "latin-1"}


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("ls", LATIN),
        ("stat ä/→", LATIN),
        ("rm -n ä/→", LATIN),
        ("ls --json", LATIN),
        ("ls", {"PYTHONIOENCODING": "ascii"}),
        ("ls", {"LC_ALL": "C"}),
    ],
)
def test_an_encoding_without_the_keys(
    env: dict[str, str], tmp_path: Path, command: str, setting: dict[str, str]
) -> None:
    result = shell(f"blockyard {command}", env | setting, tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    if "json" not in command:
        shown = b"\xe4/\\u2192" if setting is LATIN else "ä/→".encode()
        assert shown in result.stdout


class TestCommandsThatSayNothing:
    """They need no standard output."""

    @pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
    def test_put_get_and_cp(self, env: dict[str, str], tmp_path: Path, streams: str) -> None:
        (tmp_path / "file").write_bytes(DATA)
        for command in ("put file new", "get new out", "cp new copy", "get copy again"):
            result = shell(f"blockyard {command} {streams}", env, tmp_path)
            assert (result.returncode, result.stderr) == (0, b"")
        assert (tmp_path / "out").read_bytes() == (tmp_path / "again").read_bytes() == DATA


class TestInput:
    @pytest.mark.parametrize("file", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
    def test_that_is_closed_is_not_an_empty_content(
        self, env: dict[str, str], tmp_path: Path, file: str
    ) -> None:
        result = shell(f"blockyard put {file} new <&-", env, tmp_path)
        assert result.stderr == b"blockyard: standard input: it is closed\n"
        assert result.returncode == 1
        assert shell("blockyard stat new", env, tmp_path).returncode == 3

    @pytest.mark.parametrize("file", ["-", "/dev/stdin"])
    def test_by_any_name(self, env: dict[str, str], tmp_path: Path, file: str) -> None:
        result = shell(f"blockyard put {file} new", env, tmp_path, DATA)
        assert (result.returncode, result.stderr) == (0, b"")
        assert shell("blockyard cat new", env, tmp_path).stdout == DATA

    def test_nobody_to_ask(self, env: dict[str, str], tmp_path: Path) -> None:
        result = shell("blockyard rm -r movie <&-", env, tmp_path)
        assert result.stderr.startswith(b"blockyard: standard input: it is closed: nobody can be")
        assert result.returncode == 1
        result = shell("blockyard rm -r movie", env, tmp_path, b"\xff\xfe\nn\n")
        assert b"Traceback" not in result.stderr
        assert result.returncode == 1
        assert shell("blockyard stat movie", env, tmp_path).returncode == 0


class TestAppending:
    @pytest.mark.parametrize("file", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    @pytest.mark.parametrize("redirection", [">> app", "1<> app"])
    def test_what_is_there_stays(
        self, env: dict[str, str], tmp_path: Path, file: str, redirection: str
    ) -> None:
        (tmp_path / "app").write_bytes(b"before")
        result = shell(f"blockyard get movie {file} {redirection}", env, tmp_path)
        assert (result.returncode, result.stderr) == (0, b"")
        kept = b"before" if ">>" in redirection else b""
        assert (tmp_path / "app").read_bytes() == kept + DATA
        assert sorted(os.listdir(tmp_path)) == ["app", "blocks"]

    def test_another_descriptor(self, env: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "app").write_bytes(b"before")
        result = shell("blockyard get movie /dev/fd/7 7>> app", env, tmp_path)
        assert (result.returncode, result.stderr, result.stdout) == (0, b"", b"")
        assert (tmp_path / "app").read_bytes() == b"before" + DATA

    @pytest.mark.parametrize("target", ["-", "/dev/stdout", "/dev/fd/7 7>&1"])
    def test_a_reader_that_leaves(self, env: dict[str, str], tmp_path: Path, target: str) -> None:
        line = f"{{ blockyard get movie {target}; echo $? >&2; }} | head -c 10"
        result = shell(line, env, tmp_path)
        assert (result.stdout, result.stderr) == (DATA[:10], b"141\n")


# It prints the exit code of a command and how much it wrote to an output that does not block, as a
# terminal does not after some programs, nor a pipe that a program in node.js shares.
NOT_BLOCKING = """
import fcntl, os, subprocess, sys, time
reader, writer = os.pipe()
os.set_blocking(writer, False)
fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
command = [sys.executable, "-m", "blockyard", *sys.argv[1:]]
process = subprocess.Popen(command, stdout=writer)
os.close(writer)
time.sleep(0.5)
size = 0
while data := os.read(reader, 1 << 20):
    size += len(data)
print(process.wait(), size)
"""


@pytest.mark.parametrize("arguments", [["cat", "movie"], ["ls", "many/"], ["rm", "-rn", "many"]])
def test_an_output_that_does_not_block(
    env: dict[str, str], tmp_path: Path, arguments: list[str]
) -> None:
    with blockyard.open_store(env["BLOCKYARD_STORE"]) as store:
        _ = store.write_blocks((f"many/{number:0200}", b"") for number in range(100))
    whole = shell(f"blockyard {' '.join(arguments)}", env, tmp_path).stdout
    assert len(whole) > 20_000
    result = subprocess.run(
        [sys.executable, "-c", NOT_BLOCKING, *arguments],
        env=env,
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert (result.stdout, result.stderr) == (b"0 %d\n" % len(whole), b"")


def test_an_encoding_with_a_byte_order_mark(env: dict[str, str], tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        result = shell("blockyard stat ä/→", env | {"PYTHONIOENCODING": encoding}, tmp_path)
        text = result.stdout.decode(encoding)
        assert text.startswith("block:    ä/→\nsize:     5 bytes")
        assert "\ufeff" not in text


class TestLocaleWithoutUtf8:
    """LC_ALL=C, where Python is told to leave it at that: all text is ASCII then."""

    @pytest.fixture
    def ascii_env(self, env: dict[str, str]) -> dict[str, str]:
        return env | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def test_keys_are_what_is_typed(self, ascii_env: dict[str, str], tmp_path: Path) -> None:
        line = "blockyard cp ä/→ ö && blockyard ls ä/ --json && blockyard cat ö"
        result = shell(line, ascii_env, tmp_path)
        assert (result.returncode, result.stderr) == (0, b"")
        assert b'"key": "\\u00e4/\\u2192"' in result.stdout
        assert result.stdout.endswith(b"}\nblock")

    def test_bytes_that_are_no_utf8_are_refused(
        self, ascii_env: dict[str, str], tmp_path: Path
    ) -> None:
        result = shell("blockyard stat $(printf 'a\\377')", ascii_env, tmp_path)
        assert result.returncode == 2
        assert b"not valid unicode" in result.stderr


INTERRUPTED_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from blockyard.cli import main
main()
"""


def test_an_interrupt_while_modules_are_imported(env: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, "ls"],
        env=env,
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, b"")


def test_a_home_whose_name_is_no_utf8(env: dict[str, str], tmp_path: Path) -> None:
    for gone in ("BLOCKYARD_STORE", "XDG_DATA_HOME"):
        env.pop(gone, None)
    line = "echo bytes | blockyard put - a && blockyard cat a"
    result = shell(line, env | {"HOME": str(tmp_path / "home-\udcff")}, tmp_path)
    assert (result.stdout, result.stderr) == (b"bytes\n", b"")


def test_without_a_home(env: dict[str, str], tmp_path: Path) -> None:
    del env["BLOCKYARD_STORE"]
    nobody = "import os, pwd; pwd.getpwuid = {}.__getitem__; "
    code = nobody + "from blockyard.cli import main; main()"
    for homes in ({}, {"HOME": "relative"}):
        for gone in ("HOME", "XDG_DATA_HOME"):
            env.pop(gone, None)
        result = subprocess.run(
            [sys.executable, "-c", code, "ls"],
            env=env | homes,
            capture_output=True,
            check=False,
            cwd=tmp_path,
        )
        assert result.returncode == 2
        [line] = result.stderr.splitlines()
        assert line.startswith(b"blockyard: no store is named")
        assert line.endswith(b"HOME is not set")


@pytest.mark.parametrize("arguments", ["get movie missing/file", "put missing new", "put . new"])
def test_files_that_are_not_there(env: dict[str, str], tmp_path: Path, arguments: str) -> None:
    result = shell(f"blockyard {arguments}", env, tmp_path)
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert result.stderr.startswith(b"blockyard: ")


def test_names_that_are_no_text(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    result = shell("mv file $(printf '\\377'); blockyard put $(printf '\\377') new", env, tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    for command in ("stat", "cat", "rm", "ls"):
        result = shell(f"blockyard {command} $(printf '\\377')", env, tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith(b"blockyard: ")
        assert b"Traceback" not in result.stderr


def test_the_module_is_the_command(env: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "blockyard", "--version"], capture_output=True, check=True, env=env
    )
    assert result.stdout == f"blockyard {blockyard.__version__}\n".encode()
    result = subprocess.run(
        [sys.executable, "-m", "blockyard", "nix"], capture_output=True, check=False, env=env
    )
    assert result.returncode == 2
    assert b"Usage: blockyard" in result.stderr
