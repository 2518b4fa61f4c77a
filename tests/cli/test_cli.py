"""The command line, in this process: what it prints, what it does, how it exits."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import blockyard
from blockyard import PutOptions
from blockyard.cli import output
from blockyard.cli.app import app
from blockyard.context import Context
from blockyard.errors import AccessDeniedError, BlockStoreError, BucketNotFoundError, ThrottledError
from blockyard.model import BLOCK_SIZE, BlockInfo, DeleteResult
from blockyard.stores.base import ReadRequest, WriteRequest
from blockyard.stores.filesystem import FilesystemStore
from blockyard.sync import BlockStore
from servers.endpoint import Endpoint, boto3_client

DATA = random.Random(3).randbytes(BLOCK_SIZE + 100)  # noqa: S311 - the same every time


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default store, and a working folder that is neither the user's nor the project's."""
    monkeypatch.delenv("BLOCKYARD_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "blockyard"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


def run(*arguments: object, answer: str = "") -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)


def ok(*arguments: object, answer: str = "") -> str:
    result = run(*arguments, answer=answer)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def keys(prefix: str = "") -> list[str]:
    return [json.loads(line)["key"] for line in ok("ls", "--json", prefix).splitlines()]


class TestObjects:
    def test_a_file_is_put_as_one_object(self, tmp_path: Path, folder: Path) -> None:
        data = DATA * 3
        path = tmp_path / "large"
        path.write_bytes(data)
        assert ok("put", "--object", path, "a/movie") == ""
        assert keys() == ["a/movie"]
        assert (folder / "a" / "movie=").read_bytes() == data
        result = run("put", "--object", tmp_path / "absent", "a/movie")
        assert (result.exit_code, "absent" in result.stderr) == (1, True)
        assert (folder / "a" / "movie=").read_bytes() == data
        assert [
            each.name for each in (folder / ".blockyard").iterdir() if "upload" in each.name
        ] == []

    def test_what_was_put_as_an_object_is_got(self, source: Path) -> None:
        ok("put", "--object", source, "movie")
        ok("get", "movie", "copy")
        assert Path("copy").read_bytes() == DATA
        for command in (["get", "movie", "-"], ["cat", "movie"]):
            assert run(*command).stdout_bytes == DATA
        ranged = run("cat", "movie", "--offset", 100, "--length", 10)
        assert ranged.stdout_bytes == DATA[100:110]
        assert run("cat", "movie", "--offset", len(DATA) - 3).stdout_bytes == DATA[-3:]
        assert run("cat", "movie", "--length", 0).stdout_bytes == b""
        assert run("cat", "movie", "--offset", 10**9).exit_code == 2

    def test_a_block_is_got_by_who_may_not_list(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are told that access is denied, where there is no manifest."""
        ok("put", "--object", source, "movie")

        def denied(store: BlockStore, content_id: str) -> bool:
            raise AccessDeniedError(
                f"content_exists {content_id!r}: Access Denied (403)", status=403
            )

        monkeypatch.setattr(BlockStore, "content_exists", denied)
        ok("get", "movie", "copy")
        assert Path("copy").read_bytes() == DATA
        assert run("cat", "movie").stdout_bytes == DATA
        assert "Access Denied" in run("get", "another", "copy").stderr

    def test_an_object_is_read_in_parts_of_one_version(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, another = DATA * 3, [bytes([number]) * len(DATA) * 3 for number in range(3)]
        (tmp_path / "large").write_bytes(data)
        ok("put", "--object", tmp_path / "large", "movie")
        Path("copy").write_bytes(b"before")
        ok("get", "movie", "copy")
        assert Path("copy").read_bytes() == data
        read = FilesystemStore.read

        async def replacing(store: FilesystemStore, ctx: Context, request: ReadRequest) -> Any:
            found = await read(store, ctx, request)
            if request.offset == 0 and another:
                _ = await store.write(ctx, WriteRequest("movie", another.pop()))
            return found

        monkeypatch.setattr(FilesystemStore, "read", replacing)
        failed = run("get", "movie", "copy")
        assert (failed.exit_code, "replaced while it was read" in failed.stderr) == (1, True)
        assert Path("copy").read_bytes() == data
        assert run("cat", "movie").exit_code == 1
        assert another == []
        another.append(b"the last")
        ok("get", "movie", "copy")  # which reads it once more
        assert Path("copy").read_bytes() == b"the last"
        assert not list(Path().glob(".blockyard*"))

    def test_an_empty_object_and_the_manifest_of_a_content(self, source: Path) -> None:
        Path("empty").touch()
        ok("put", "--object", "empty", "nothing")
        ok("get", "nothing", "again")
        assert Path("again").read_bytes() == run("cat", "nothing").stdout_bytes == b""
        ok("get", "nothing", "/dev/null")
        ok("put", source, "movie")
        assert run("cat", "movie.blockyard").stdout_bytes.startswith(b"blockyard-content")

    def test_uploads_that_were_left_are_shown_and_removed(
        self, monkeypatch: pytest.MonkeyPatch, moto_endpoint: Endpoint, bucket: str, key_prefix: str
    ) -> None:
        settings = moto_endpoint.s3_settings(bucket, key_prefix)
        url = (
            f"s3://{bucket}/{key_prefix}?endpoint={settings['endpoint']}"
            f"&access_key={settings['access_key']}&secret_key={settings['secret_key']}"
        )
        client = boto3_client(moto_endpoint)
        named = {"Bucket": bucket, "Key": f"{key_prefix}left"}
        upload = client.create_multipart_upload(**named)["UploadId"]
        client.upload_part(**named, UploadId=upload, PartNumber=1, Body=b"left")

        def said(*more: str) -> str:
            return ok("--store", url, "clean", *more)

        # moto says of each that it began in 2010
        for delete, did in ((), "to remove"), (("--delete",), "removed"):
            assert said(*delete) == f"{did}: left: upload {upload}\n{did}: 0 bytes (0 B)\n"
        assert said() == "to remove: 0 bytes (0 B)\n"
        client.close()


class TestContents:
    def test_what_was_put_is_got(self, source: Path, folder: Path) -> None:
        assert ok("put", source, "a/movie") == ""
        assert ok("get", "a/movie", "copy") == ""
        assert Path("copy").read_bytes() == DATA
        with blockyard.open_store(folder.as_uri()) as store:
            place = f"a/movie/{store.stat_content('a/movie').version}/chunk-000000"
            assert keys() == ["a/movie.blockyard", f"{place}/block-0000", f"{place}/block-0001"]
            assert store.read_content("a/movie") == DATA

    def test_cat_gives_ranges(self, source: Path) -> None:
        ok("put", source, "movie")
        assert run("cat", "movie").stdout_bytes == DATA
        result = run("cat", "movie", "--offset", BLOCK_SIZE - 5, "--length", 10)
        assert result.stdout_bytes == DATA[BLOCK_SIZE - 5 :][:10]
        assert run("cat", "movie", "--offset", len(DATA) - 3).stdout_bytes == DATA[-3:]
        assert run("get", "movie", "-").stdout_bytes == DATA

    def test_an_empty_file(self) -> None:
        Path("empty").touch()
        ok("put", "empty", "nothing")
        assert run("cat", "nothing").stdout_bytes == b""
        ok("get", "nothing", "again")
        assert Path("again").read_bytes() == b""


class TestLooking:
    def test_ls_shows_size_time_and_key_below_a_literal_prefix(self, source: Path) -> None:
        ok("put", source, "movie")
        ok("put", source, "movie2")
        first, second = ok("ls", "movie/").splitlines()
        pattern = r" +4\.0 MiB  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  movie/\S+/block-0000"
        assert re.fullmatch(pattern, first)
        assert second.split()[:2] == ["100", "B"]
        assert len(ok("ls", "mov").splitlines()) == 6
        assert ok("ls", "nothing") == ""

    def test_ls_shows_contents(self, source: Path) -> None:
        ok("put", source, "movie")
        ok("put", source, "ä movie")
        first, second = ok("ls", "--contents").splitlines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  movie", first)
        assert second.endswith("  ä movie")
        line = json.loads(ok("ls", "-c", "--json", "mov"))
        assert sorted(line) == ["content_id", "last_modified"]
        assert line["content_id"] == "movie"

    def test_json_lines_are_whole(self, source: Path) -> None:
        ok("put", source, "ä movie")
        line = json.loads(ok("ls", "--json", "ä movie/").splitlines()[0])
        assert sorted(line) == ["etag", "key", "last_modified", "size"]
        assert (line["key"], line["size"]) == (keys("ä movie/")[0], BLOCK_SIZE)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", line["last_modified"])

    def test_stat_of_a_block_and_of_a_content(self, source: Path) -> None:
        ok("put", source, "movie")
        key = keys("movie/")[1]
        block = ok("stat", key)
        assert f"block:    {key}\nsize:     100 bytes (100 B)\netag:" in block
        shown = f"content:  movie\nsize:     {len(DATA)} bytes (4.0 MiB)\nmodified: "
        assert ok("stat", "movie").startswith(shown)

    def test_stat_tells_how_a_block_is_stored(
        self, moto_endpoint: Endpoint, bucket: str, key_prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_endpoint.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_endpoint.secret_key)
        url = moto_endpoint.store_url(bucket, key_prefix)
        options = PutOptions(content_type="text/plain", metadata={"film": "one"})
        with blockyard.open_store(url) as store:
            _ = store.write_block("a", b"1", options=options)
        told = ok("--store", url, "stat", "a")
        assert "type:     text/plain\nclass:    STANDARD\nmetadata: film=one\n" in told

    def test_a_presigned_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
        (url,) = ok("--store", "s3://my-data", "presign", "a", "--expires", "60").splitlines()
        assert url.startswith("https://my-data.s3.us-east-1.amazonaws.com/a?X-Amz-Algorithm=")
        assert "X-Amz-Expires=60&" in url
        payer = "s3://my-data?request_payer=true"
        told = ok("--store", payer, "presign", "a", "--method", "delete").splitlines()
        assert told[1:] == ["x-amz-request-payer: requester"]
        assert run("--store", "s3://my-data", "presign", "a", "--method", "POST").exit_code == 2
        assert run("presign", "a").exit_code == 1  # a folder takes no requests

    def test_health(self, folder: Path) -> None:
        assert re.fullmatch(rf"{re.escape(str(folder))}: ok, [\d.]+ ms\n", ok("health"))

    def test_keys_can_not_command_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        block = BlockInfo("a\x1b[31mred\x9b", 1, "", None)
        assert output.row(block).endswith("a\x1b[31mred\x9b")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert output.row(block).endswith(r"a\x1b[31mred\x9b")
        assert output.shown("plain ä") == "plain ä"

    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 40, "1.0 TiB"),
            (1 << 52, "4096.0 TiB"),
        ],
    )
    def test_sizes(self, size: int, shown: str) -> None:
        assert output.human(size) == shown


class TestCopying:
    def test_a_block_and_a_content(self, source: Path) -> None:
        ok("put", source, "movie")
        ok("cp", "movie", "b/movie")
        ok("cp", keys("movie/")[1], "tail")
        assert run("cat", "b/movie").stdout_bytes == DATA
        assert "100 B" in ok("ls", "tail")


class TestDeleting:
    @pytest.fixture(autouse=True)
    def contents(self, source: Path) -> None:
        for name in ("share1/a", "share1/b", "share10/a"):
            ok("put", source, name)
        Path(source).write_bytes(b"x")

    def test_a_block(self) -> None:
        assert ok("rm", keys("share1/a/")[1]) == "deleted 1 block\n"
        assert len(keys()) == 8

    def test_a_content_and_no_more(self) -> None:
        assert ok("rm", "share1/a") == "deleted 1 content\n"
        listed = ok("ls", "--contents").splitlines()
        assert [line.split()[-1] for line in listed] == ["share1/b", "share10/a"]
        assert keys("share1/a/") == []

    def test_blocks_in_the_plain_layout_without_the_first(self, folder: Path) -> None:
        with blockyard.open_store(folder.as_uri()) as store:
            _ = store.write_block("plain/chunk-0/block-1", b"x")
        assert ok("rm", "plain") == "deleted 1 content\n"
        assert keys("plain") == []

    def test_a_folder_of_contents_is_not_a_content(self) -> None:
        result = run("rm", "share1")
        assert result.exit_code == 3
        assert (
            result.stderr == "blockyard: rm 'share1': there is no block or content of that name\n"
        )
        assert len(keys()) == 9

    def test_a_prefix_asks_first(self) -> None:
        result = run("rm", "-r", "share1", answer="n\n")
        assert result.exit_code == 1
        assert "Delete 6 blocks below share1? [y/N]" in result.stderr
        assert len(keys()) == 9
        result = run("rm", "-r", "share1", answer="y\n")
        assert result.exit_code == 0
        assert result.stdout.endswith("deleted 6 blocks\n")  # after the answer, which is echoed
        assert {key.split("/")[0] for key in keys()} == {"share10"}

    def test_nobody_to_ask_means_no(self) -> None:
        assert run("rm", "-r", "share1").exit_code == 1
        assert len(keys()) == 9

    def test_yes_does_not_ask(self) -> None:
        assert ok("rm", "--recursive", "--yes", "share1/a") == "deleted 3 blocks\n"
        assert len(keys()) == 6

    @pytest.mark.parametrize("arguments", [["-r", "share1"], ["share1/a"]])
    def test_a_dry_run_only_shows(self, arguments: list[str]) -> None:
        before = keys()
        shown = ok("rm", "--dry-run", *arguments).splitlines()
        assert shown == (keys("share1/") if "-r" in arguments else ["share1/a"])
        assert keys() == before

    def test_nothing_below_a_prefix(self) -> None:
        assert run("rm", "-r", "-y", "share").exit_code == 3

    def test_everything_can_not_be_meant_by_accident(self) -> None:
        result = run("rm", "-r", "-y", "")
        assert result.exit_code == 2
        assert "empty prefix" in result.stderr
        assert len(keys()) == 9

    @pytest.mark.parametrize("arguments", [["-r", "-y", "share1"], ["share1/a"]])
    def test_keys_that_could_not_be_deleted_are_listed(
        self, arguments: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = FilesystemStore.delete_blocks
        held = keys("share1/a/")[1]

        async def fail_in_part(self: FilesystemStore, ctx: Any, wanted: list[str]) -> DeleteResult:
            kept = [key for key in wanted if key == held]
            result = await real(self, ctx, [key for key in wanted if key not in kept])
            return DeleteResult(result.deleted, dict.fromkeys(kept, BlockStoreError("held")))

        monkeypatch.setattr(FilesystemStore, "delete_blocks", fail_in_part)
        result = run("rm", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"blockyard: {held}: held\n" in result.stderr
        assert held in keys()

    def test_errors_can_not_command_a_terminal(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = "evil/\x1b]0;owned\x07\x1b[2J"
        with blockyard.open_store(folder.as_uri()) as store:
            store.write_block(key, b"x")

        async def fail(self: FilesystemStore, ctx: Any, wanted: list[str]) -> DeleteResult:
            return DeleteResult([], dict.fromkeys(wanted, BlockStoreError("no\x1b[31m\nroot: ok")))

        monkeypatch.setattr(FilesystemStore, "delete_blocks", fail)
        for result in (
            run("rm", key),
            run("--debug", "rm", key),
            run("rm", "-r", "evil", answer="y"),
        ):
            assert result.exit_code == 1
            assert not {"\x1b", "\x07"} & set(result.stderr)
            assert r"\x1b]0;owned\x07" in result.stderr
            assert "\nroot: ok" not in result.stderr.partition("blockyard: evil")[2]


class TestKeysInOutput:
    """What goes to a pipe or a file is exact, whatever it looks like."""

    KEY = "back\x1b[0mup\x1b]0;x\x07"

    def test_they_are_as_they_are(self, source: Path) -> None:
        ok("put", source, self.KEY)
        assert ok("ls", "-c").endswith(f"  {self.KEY}\n")
        assert f"  {self.KEY}/" in ok("ls")
        assert f" {self.KEY}\n" in ok("stat", self.KEY)
        assert ok("rm", "-n", self.KEY) == f"{self.KEY}\n"
        assert json.loads(ok("ls", "-c", "--json"))["content_id"] == self.KEY

    def test_on_a_terminal_they_are_escaped(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ok("put", source, self.KEY)
        monkeypatch.setattr("blockyard.cli.output.shown", output.escaped)
        monkeypatch.setattr("blockyard.cli.app.shown", output.escaped)
        for command in (["ls"], ["ls", "-c"], ["stat", self.KEY], ["rm", "-n", self.KEY]):
            assert "\x1b" not in ok(*command)

    def test_progress_does_not_command_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(output, "watched", lambda: True)
        with output.progress_bar(f"put {self.KEY}", 10) as progress:
            assert progress is not None
            progress(10)
        assert self.KEY not in capsys.readouterr().err


class TestDamagedContents:
    def test_clean_goes_on_and_says_so(self, folder: Path) -> None:
        orphan = "a/20200101T000000Z-0123456789abcdef/chunk-000000/block-0000"
        with blockyard.open_store(folder.as_uri()) as store:
            store.write_block(orphan, b"orphan")
            store.write_block("zz.blockyard", b"hi")
        for delete in ([], ["--delete"]):
            result = run("clean", "--no-writers", *delete)
            assert result.exit_code == 1
            assert "a: orphan 20200101T000000Z-0123456789abcdef: 1 blocks" in result.stdout
            assert "damaged: zz: clean_contents 'zz': the manifest" in result.stdout
        assert keys() == ["zz.blockyard"]


@pytest.mark.parametrize("empty", ["", " "])
def test_a_store_that_is_named_by_nothing(source: Path, folder: Path, empty: str) -> None:
    """As `--store "$STORE"` is where that is not set."""
    for arguments in (
        ["--store", empty, "put", source, "a"],
        ["put", "--store", empty, source, "a"],
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--store: expected a URL, got nothing" in result.stderr
    assert not folder.exists()


class TestContentsOfOthers:
    def test_adopt_and_clean(self, folder: Path, source: Path) -> None:
        with blockyard.open_store(folder.as_uri()) as store:
            _ = store.write_block("plain/chunk-0/block-0", b"of another system")
        assert ok("adopt", "plain") == "adopted plain: 17 bytes (17 B) in 1 blocks\n"
        assert "plain.blockyard" in keys()
        ok("put", source, "movie")
        ok("put", source, "movie")
        assert "kept: movie: replaced 2" in ok("clean")
        assert "to remove: movie: replaced 2" in ok("clean", "--no-writers")
        before = len(keys())
        assert "removed: movie: replaced 2" in ok("clean", "--delete", "--no-writers")
        assert len(keys()) == before - 2
        assert ok("clean", "--no-writers") == "to remove: 0 bytes (0 B)\n"


class TestWhichStore:
    @pytest.fixture
    def other(self, tmp_path: Path) -> str:
        url = (tmp_path / "other").as_uri()
        with blockyard.open_store(url) as store:
            store.write_block("from the other", b"x")
        return url

    def test_the_option_stands_before_or_after_the_command(self, other: str) -> None:
        assert "from the other" in ok("ls", "--store", other)
        assert "from the other" in ok("--store", other, "ls")
        assert "from the other" in ok("--store", "file:///nowhere", "ls", "--store", other)

    def test_the_environment(self, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BLOCKYARD_STORE", other)
        assert "from the other" in ok("ls")
        assert ok("ls", "--store", "memory://") == ""

    def test_a_file(self, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = other.removeprefix("file://")
        config = tmp_path / "config.yaml"
        config.write_text(f"block_store:\n  type: file\n  file:\n    path: {path}\n")
        monkeypatch.setenv("BLOCKYARD_STORE", "memory://")
        assert "from the other" in ok("ls", "--config", config)
        assert "from the other" in ok("--config", config, "ls")
        assert ok("--config", config, "ls", "--store", "memory://") == ""

    def test_one_of_both(self, other: str) -> None:
        result = run("ls", "--store", other, "--config", "x.yaml")
        assert result.exit_code == 2
        assert "expected one of them" in result.stderr

    def test_without_a_word_it_is_a_folder_of_the_user(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home with space"))
        ok("put", source, "movie")
        assert (tmp_path / "home with space/.local/share/blockyard").is_dir()
        assert run("cat", "movie").stdout_bytes == DATA


class TestErrors:
    """One line on stderr and the exit code that the help tells of."""

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["get", "nix", "out"], 3, "get 'nix': there is no block or content of that name"),
            (["cat", "nix"], 3, "cat 'nix': there is no block or content of that name"),
            (["stat", "nix"], 3, "stat 'nix': there is no block or content"),
            (["cp", "nix", "x"], 3, "cp 'nix': there is no block or content"),
            (["put", "nix", "x"], 1, "'nix': No such file"),
            (["put", "source", "x/"], 2, "'x/': must not end with '/'"),
            (["cat", "movie", "--offset", "99999999"], 2, "at or past the end"),
            (["get", "movie", "no/such/folder"], 1, "No such file or directory"),
            (["ls", "--store", "ftp://x"], 2, "expected s3://, file:// or memory://"),
            (["ls", "--config", "nix.yaml"], 2, "nix.yaml"),
            (
                ["ls", "--store", "s3://bucket-x?endpoint=http://127.0.0.1:1&max_attempts=1"],
                5,
                "127",
            ),
        ],
    )
    def test_what_went_wrong(
        self,
        source: Path,
        arguments: list[str],
        code: int,
        says: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
        ok("put", source, "movie")
        result = run(*arguments)
        assert result.exit_code == code
        assert result.stdout == ""
        assert result.stderr.startswith("blockyard: ")
        assert result.stderr.count("\n") == 1
        assert says in result.stderr
        assert "very-secret" not in result.stderr

    @pytest.mark.parametrize(
        ("error", "code", "says"),
        [
            (AccessDeniedError("no", status=403), 4, "no"),
            (BucketNotFoundError("no", status=404), 3, "no"),
            (ThrottledError("slow down", status=503), 5, "slow down"),
            (OSError(28, "No space left on device"), 1, "No space left on device"),
            (FileNotFoundError(2, "No such file", "file"), 1, "'file': No such file"),
            (KeyError("x"), 1, "unexpected KeyError: 'x' (--debug shows where)"),
        ],
    )
    def test_what_went_wrong_below(
        self, error: Exception, code: int, says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: BlockStore) -> None:
            raise error

        monkeypatch.setattr(BlockStore, "health_check", fail)
        result = run("health")
        assert (result.exit_code, result.stderr) == (code, f"blockyard: {says}\n")

    @pytest.mark.parametrize("arguments", [["--debug", "cat", "nix"], ["cat", "nix", "--debug"]])
    def test_debug_shows_the_traceback_too(self, arguments: list[str]) -> None:
        result = run(*arguments)
        assert "Traceback (most recent call last)" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("blockyard: ")

    @pytest.mark.parametrize(
        "arguments", [["nix"], ["put", "one"], ["ls", "--nix"], ["cat", "x", "--offset", "-1"]]
    )
    def test_wrong_use(self, arguments: list[str]) -> None:
        assert run(*arguments).exit_code == 2

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["put", "", "x"], "FILE"),
            (["put", "source", ""], "CONTENT_ID"),
            (["get", "", "out"], "NAME"),
            (["get", "movie", ""], "FILE"),
            (["cat", ""], "NAME"),
            (["stat", ""], "KEY"),
            (["presign", ""], "KEY"),
            (["adopt", ""], "CONTENT_ID"),
            (["cp", "", "x"], "SRC"),
            (["cp", "movie", ""], "DST"),
            (["rm", ""], "KEY_OR_PREFIX"),
            (["rm", "-r", ""], "KEY_OR_PREFIX"),
            (["ls", "--config", ""], "--config"),
            (["cache", "clear", ""], "FOLDER"),
        ],
    )
    def test_an_argument_that_is_empty_is_named(self, arguments: list[str], named: str) -> None:
        """As `"$NAME"` is where that is not set."""
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"Invalid value for '{named}': " in result.stderr
        assert "literal" not in result.stderr

    @pytest.mark.parametrize(
        "arguments",
        [["health"], [], ["ls", "a"], ["--config"], ["health", "--config"], ["cache", "stat"]],
    )
    @pytest.mark.parametrize(
        "url", ["s3://b?secret_key=hunter2", "s3://AKIA:hunter2@b", "s3:/b?secret_key=hunter2"]
    )
    def test_a_url_in_a_wrong_place_is_not_quoted(self, arguments: list[str], url: str) -> None:
        result = run(*arguments, url, *(["health"] if arguments == ["--config"] else []))
        assert result.exit_code == 2
        assert "hunter2" not in result.output


def test_the_help_names_every_exit_code() -> None:
    text = ok("--help")
    for code in (0, 1, 2, 3, 4, 5, 130, 141, 143):
        assert re.search(rf"\b{code}\b", text)
    for command in ("put", "get", "cat", "ls", "stat", "cp", "rm", "adopt", "clean", "health"):
        assert f"\n  {command} " in text
        assert "--store" in ok(command, "--help")


def test_the_version() -> None:
    assert ok("--version") == f"blockyard {blockyard.__version__}\n"


class TestProgress:
    @pytest.fixture(autouse=True)
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(output, "watched", lambda: True)
        monkeypatch.setattr("blockyard.cli.app.watched", lambda: True)

    def test_a_watcher_is_told_how_fast_it_was(self, source: Path) -> None:
        for arguments in (["put", source, "m"], ["get", "m", "out"], ["cp", "m", "copy"]):
            result = run(*arguments)
            assert result.stdout == ""
            assert re.search(
                rf"{arguments[0]} m: 4\.0 MiB in [\d.]+ s, [\d.]+ .?i?B/s\n$", result.stderr
            )

    def test_markup_in_names_is_shown_as_it_is(self, source: Path) -> None:
        assert "put [red]m: " in run("put", source, "[red]m").stderr
