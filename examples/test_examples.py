"""Runs every example on an embedded S3, and the code of docs/recipes.md: `make examples`."""

from __future__ import annotations

import gc
import http.client
import random
import re
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import uvicorn
import zarr

import blockyard
from blockyard.fsspec import BlockyardFileSystem
from blockyard.iterators import AsyncPageIterator
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from examples import backup, serve, tables, training, xarray_zarr
from servers import moto
from servers.endpoint import Endpoint, create_bucket
from tests.docs.markdown_pages import Code, fenced, page

BUCKET = "my-data"
MIB = 2**20


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    with moto.serve() as endpoint:
        create_bucket(endpoint, BUCKET)
        yield endpoint


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, tmp_path: Path) -> None:
    """A service and its keys in the environment, as the programs' users have them."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint.url,
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
        "AWS_REGION": endpoint.region,
        "BLOCKYARD_S3_FORCE_PATH_STYLE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """A place in the bucket that no other test uses."""
    return f"s3://{BUCKET}/{request.node.name}/"


def test_xarray_reads_a_second_time_without_a_request(url: str) -> None:
    days = xarray_zarr.DAYS
    assert xarray_zarr.main(url) == {"no cache": [days, days], "cache": [days, 0]}


def test_xarray_reads_by_the_fused_pipeline_of_a_zarr_that_has_it() -> None:
    path = zarr.config.get("codec_pipeline.path")
    major, minor = (int(part) for part in zarr.__version__.split(".")[:2])
    assert path.endswith("FusedCodecPipeline") == ((major, minor) >= (3, 4))


def test_four_programs_read_one_parquet_file(url: str) -> None:
    means = tables.main(url.removeprefix("s3://").rstrip("/"))
    assert means == pytest.approx([means[0]] * 4)
    assert 9000 < means[0] < 11000


def test_a_parquet_file_is_looked_up_once() -> None:
    """However often pyarrow asks whether it is there; and only the columns are read."""
    store = Counted(MemoryStore())
    files = BlockyardFileSystem(store=store)
    names = [f"column {number}" for number in range(20)]
    table = pyarrow.table({name: np.random.default_rng(1).random(50_000) for name in names})
    with files.open("table.parquet", "wb") as file:
        pyarrow.parquet.write_table(table, file)
    two = pyarrow.parquet.read_table("table.parquet", columns=names[3:12:8], filesystem=files)
    assert two.equals(table.select(names[3:12:8]))
    assert store.looks == 1
    assert store.bytes < 2 * two.nbytes


class Counted(WrapperStore):
    """A store that counts how often a block is looked up, and the bytes that are read."""

    looks = 0
    bytes = 0

    async def stat_block(self, ctx: Any, key: str) -> Any:
        self.looks += 1
        return await super().stat_block(ctx, key)

    async def read(self, ctx: Any, request: Any) -> Any:
        block = await super().read(ctx, request)
        self.bytes += block.size
        return block


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking beside threads
def test_workers_share_a_cache(url: str, tmp_path: Path) -> None:
    first, *later = training.main(url, str(tmp_path / "cache"))
    assert first >= training.SAMPLES
    assert later == [0, 0]


def test_a_backup_stores_nothing_twice_and_comes_back(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "home"
    (folder / "below").mkdir(parents=True)
    blocks = [random.Random(number).randbytes(4 * MIB) for number in range(3)]
    (folder / "one.bin").write_bytes(blocks[0] + blocks[1] + b"end")
    (folder / "below" / "two.bin").write_bytes(blocks[1] + blocks[2])
    (folder / "empty").write_bytes(b"")
    backup.main(url, "save", str(folder), "monday")
    (folder / "one.bin").write_bytes(blocks[0] + b"changed")
    backup.main(url, "save", str(folder), "tuesday")
    backup.main(url, "verify")
    assert capsys.readouterr().out.splitlines() == [
        "monday: 4 blocks stored, 1 were there",
        "tuesday: 1 blocks stored, 3 were there",
        "5 blocks are as they were stored",
    ]
    states = {"monday": blocks[0] + blocks[1] + b"end", "tuesday": blocks[0] + b"changed"}
    for snapshot, one in states.items():
        back = tmp_path / snapshot
        backup.main(url, "restore", str(back), snapshot)
        assert (back / "one.bin").read_bytes() == one
        assert (back / "below" / "two.bin").read_bytes() == blocks[1] + blocks[2]
        assert (back / "empty").read_bytes() == b""
    with pytest.raises(blockyard.ContentExistsError):
        backup.main(url, "save", str(folder), "monday")
    with blockyard.open_store(url) as store:
        damaged = store.list_by_prefix("blocks/")[0]
        store.write_block(damaged, b"other bytes, with checksums of their own")
    with pytest.raises(blockyard.IntegrityError, match="does not have the bytes of its name"):
        backup.main(url, "verify")


@pytest.fixture
def served(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Any]]:
    """The port of the application, and the application."""
    monkeypatch.setenv("BLOCKYARD_STORE", url)
    app = serve.application()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1], app
    finally:
        server.should_exit = True
        thread.join()


CONTENT = random.Random(5).randbytes(40 * MIB)


def ask(
    port: int, path: str = "/contents/film", method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


def test_a_content_is_served_in_ranges(url: str, served: tuple[int, Any]) -> None:
    port, _ = served
    size = len(CONTENT)
    with blockyard.open_store(url) as store:
        store.write_content("film", CONTENT, content_type="video/mp4")
        store.write_content("empty", b"")
    status, headers, body = ask(port)
    assert (status, headers["content-type"], body) == (200, "video/mp4", CONTENT)
    etag = headers["etag"]
    for asked, begin, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=4194000-9000000", 4194000, 9000001),
        ("bytes=41000000-", 41000000, size),
        ("bytes=-10", size - 10, size),
        ("bytes=41000000-99999999", 41000000, size),
    ):
        status, headers, body = ask(port, Range=asked, **{"If-Range": etag})
        assert (status, body) == (206, CONTENT[begin:end])
        assert headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
    assert ask(port, Range=f"bytes={size}-")[0] == 416
    assert ask(port, Range="bytes=-0")[0] == 416
    assert ask(port, Range="bytes=-")[0] == 200
    assert ask(port, Range="bytes=0-9", **{"If-Range": '"other"'})[0] == 200
    status, headers, body = ask(port, method="HEAD")
    assert (status, headers["content-length"], body) == (200, str(size), b"")
    assert ask(port, "/contents/empty")[::2] == (200, b"")
    assert ask(port, "/contents/nothing")[0] == 404


def test_a_client_that_goes_away_leaves_nothing(url: str, served: tuple[int, Any]) -> None:
    port, app = served
    with blockyard.open_store(url) as store:
        store.write_content("film", CONTENT)
    for number in range(20):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/contents/film")
        response = connection.getresponse()
        assert len(response.read(1 + number * 100_000)) == 1 + number * 100_000
        response.close()
        connection.close()
    until = time.monotonic() + 30
    while (taken := app.state.store.stats().connections_taken) and time.monotonic() < until:
        time.sleep(0.05)
    assert taken == 0
    read = app.state.store.stats().succeeded
    time.sleep(0.3)
    assert app.state.store.stats().succeeded == read  # nothing is read ahead for nobody
    assert [each for each in gc.get_objects() if type(each) is AsyncPageIterator] == []
    assert ask(port)[2] == CONTENT


RECIPES = fenced(page("docs/recipes.md"), "python")


def run(codes: list[Code]) -> None:
    names: dict[str, object] = {}
    for code in codes:
        text = "\n" * code.line + code.text
        exec(compile(text, "docs/recipes.md", "exec"), names)  # noqa: S102


def test_the_code_of_the_recipes_runs_in_order() -> None:
    run([code for code in RECIPES if "torch" not in code.text])


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says that this is one process alone
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not here: it takes 5 GB")
def test_the_code_for_torch_runs() -> None:
    [code] = [code for code in RECIPES if "torch" in code.text]
    run([code])


def test_the_recipes_name_every_program() -> None:
    programs = {path.name for path in Path(__file__).parent.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"examples/(\w+\.py)", page("docs/recipes.md"))) == programs - {
        Path(__file__).name
    }
