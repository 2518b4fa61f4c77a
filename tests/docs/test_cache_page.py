"""The page on the cache: its code runs, its YAML is a configuration, its table is the code's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from blockyard.config.cache import CacheConfig
from blockyard.config.loading import load_config
from blockyard.config.sections import settings_below, walk
from blockyard.model import MIB
from blockyard.stores.memory import MemoryStore
from tests.docs.markdown_pages import fenced, named, page, table
from tests.docs.test_readme import shown

PAGE = page("docs/cache.md")


def test_the_table_of_settings_is_that_of_the_models() -> None:
    fields = dict(walk(CacheConfig))
    expected = {".".join(path): shown(fields[path]) for path in settings_below(CacheConfig)}
    rows = table(PAGE, "setting, below `cache`")
    assert {named(row[0])[0]: row[1].strip("`") for row in rows} == expected


def test_the_yaml_is_a_configuration(tmp_path: Path) -> None:
    [code] = fenced(PAGE, "yaml")
    path = tmp_path / "store.yaml"
    _ = path.write_text(code.text)
    cache = load_config(path, {}, {}).cache
    assert cache is not None
    assert cache.disk is not None
    assert (cache.memory, cache.disk.path) == (256 * MIB, Path("/var/cache/blocks"))


def test_the_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "my_stores", SimpleNamespace(MyStore=MemoryStore))  # type: ignore[arg-type]
    code = "\n".join(code.text for code in fenced(PAGE, "python"))
    for name, there in (
        ("s3://my-data/blocks/", f"file://{tmp_path}/blocks"),
        ("/var/cache/blocks", f"{tmp_path}/cache"),
    ):
        assert name in code
        code = code.replace(name, there)

    exec(compile(code, "docs/cache.md", "exec"), {})  # noqa: S102

    assert "CacheStats(memory_hits=1, disk_hits=0, " in capsys.readouterr().out
