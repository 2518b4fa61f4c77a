"""Where settings come from: URLs, YAML files, keyword arguments, the environment, in that order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from blockyard.config import FileConfig, HttpConfig, S3Config, StoreConfig, TimeoutConfig
from blockyard.config.cache import CacheConfig, CacheDiskConfig
from blockyard.config.loading import load_config
from blockyard.config.portable import portable
from blockyard.config.sections import settings_below
from blockyard.errors import ConfigError
from blockyard.model import MIB

NO_VARIABLES: Mapping[str, str] = {}


def load(source: Any = None, environ: Mapping[str, str] = NO_VARIABLES, **settings: object) -> Any:
    return load_config(source, settings, environ)


def load_s3(
    source: Any = None, environ: Mapping[str, str] = NO_VARIABLES, **settings: object
) -> S3Config:
    config = load(source, environ, **settings)
    assert config.type == "s3"
    return config.s3


def refused(
    source: Any = None, environ: Mapping[str, str] = NO_VARIABLES, **settings: object
) -> str:
    with pytest.raises(ConfigError) as caught:
        _ = load(source, environ, **settings)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


# URLs


def test_s3_url_in_full() -> None:
    config = load_s3(
        "s3://my-data/a%20b/c?endpoint=http://127.0.0.1:9000&region=eu-west-1&force_path_style=true"
        "&access_key=AKIA&secret_key=a+b/c%2Bd&session_token=t&no_progress=10&max_connections=50"
        "&max_attempts=3&sign_payload=never&"
    )
    assert (config.bucket, config.key_prefix) == ("my-data", "a b/c/")
    assert config.endpoint == "http://127.0.0.1:9000"
    assert (config.region, config.force_path_style) == ("eu-west-1", True)
    assert config.access_key == "AKIA"
    assert config.secret_key.reveal() == "a+b/c+d", "a + is itself, not a space"
    assert (config.timeouts.no_progress, config.http.max_connections) == (10, 50)
    assert (config.max_attempts, config.sign_payload) == (3, "never")


def test_every_setting_has_a_url_parameter() -> None:
    assert {path[-1] for path in settings_below(S3Config)} >= {"connect", "proxy", "deadline"}
    for path in settings_below(S3Config):
        name = path[-1]
        message = refused(f"s3://my-data?{name}=%0A")
        expected = "given twice" if name == "bucket" else f"{'.'.join(path)}: expected "
        assert expected in message, "the value reached its setting, which refused it"


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("s3://my-data", ""),
        ("s3://my-data/", ""),
        ("S3://my-data//x", "/x/"),
        ("s3://my-data/a#b", "a#b/"),
        ("s3://my-data/%3Fa%25", "?a%/"),
        ("s3://my-data/a/../b", "a/../b/"),
    ],
)
def test_key_prefix_in_the_url(url: str, prefix: str) -> None:
    assert load_s3(url).key_prefix == prefix


@given(st.text(min_size=1, max_size=60).filter(lambda text: not set(text) & set("\r\n\0")))
def test_any_key_prefix_can_be_written_in_a_url(prefix: str) -> None:
    kept = prefix if prefix.endswith("/") else prefix + "/"
    assert load_s3("s3://my-data/" + quote(prefix)).key_prefix == kept


def test_file_and_memory_urls() -> None:
    assert load("file:///a%20b/c").file == FileConfig(path=Path("/a b/c"))
    assert load("memory://").type == "memory"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gs://bucket", "expected s3://, file:// or memory://, got the scheme 'gs'"),
        ("https://s3.example.com/b", "expected s3://BUCKET?endpoint=https://HOST:PORT"),
        ("://", "got the scheme nothing"),
        ("file://folder", "expected file:///ABSOLUTE/FOLDER"),
        ("file:///a?b=c", "expected file:///ABSOLUTE/FOLDER"),
        ("file:///100%", "two hexadecimal digits"),
        ("file:///\ud800", "the folder: it can't be written as a path"),
        ("file:///%00", "block_store.file.path: expected the path of a folder"),
        ("memory://x", "expected memory:// and nothing more"),
        ("s3://", "expected a bucket, s3://BUCKET/KEY_PREFIX"),
        ("s3:///prefix", "block_store.s3.bucket: required"),
        ("s3://my-data?region", "expected name=value"),
        ("s3://my-data?region=a&region=a", "region is given twice"),
        ("s3://my-data?bucket=other", "bucket is given twice"),
        ("s3://my-data/a?key_prefix=b", "key_prefix is given twice"),
        ("s3://my-data/100%", "two hexadecimal digits"),
        ("s3://my-data?region=%FF", "expected UTF-8"),
        ("s3://my-data?regoin=x", "did you mean 'region'?"),
        ("s3://my-data?conect=1", "did you mean block_store.s3.timeouts.connect?"),
        ("s3://my-data?timeouts=1", "block_store.s3.timeouts: expected a mapping"),
        ("s3://my-data?deadline=never", "block_store.s3.timeouts.deadline: expected seconds"),
        ("s3://my-data:9000/", "block_store.s3.bucket: expected the name of a bucket"),
    ],
)
def test_urls_that_are_none(url: str, reason: str) -> None:
    message = refused(url)
    assert message.startswith("store URL: ")
    assert reason in message


@pytest.mark.parametrize("name", ["\udcff", "ä", "100%", "a b+c"])
def test_a_folder_by_the_url_of_its_path(name: str) -> None:
    folder = Path("/blocks") / name
    for url in (folder.as_uri(), f"file:///blocks/{name.replace('%', '%25')}"):
        assert load_config(url, {}, {}).selected == FileConfig(path=folder)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@my-data/",
        "s3://AKIA:hunt/hunter2@my-data/",
        "s3://AKIA:hunter2",
        "s3://my-data?access_key=hunter2/K7&secret_key=x",
        "s3://my-data?access_key=x&secret_key=x&K7hunter2=1",
        "s3://my-data?K7hunter2=1&K7hunter2=1",
        "s3://my-data?K7hunter2=%",
        "AKIA:hunter2@s3://my-data",
        "s3://my-data?access_key=AKIA&secret_key=hunter2%0A",
        "s3://my-data?secret_key=hunter2",
        "s3://my-data?secret_key=hunter2%",
        "s3://my-data?secret_key=hunter2%FF",
        "s3://my-data?secret_kee=hunter2",
        "s3://my-data?secret_key=hunter2&secret_key=hunter2",
        "s3://my-data?session_token=hunter2",
        "s3://my-data?endpoint=http://AKIA:hunter2@host",
        "s3://my-data?proxy=http://user:hunter2@",
        "https://AKIA:hunter2@host/",
        "file://AKIA:hunter2@host/",
        "memory://hunter2",
    ],
)
def test_no_secret_of_a_url_is_echoed(url: str) -> None:
    assert "hunter2" not in refused(url)


@given(
    st.text(max_size=20),
    st.text(alphabet=st.sampled_from("abc.-_/?&=%#@:[]+ \n\0é\ud800 0123"), max_size=60),
)
@example("s3", "[")
@example("s3", "bu\u2100cket/?a=b")
def test_only_config_errors_escape_from_urls(scheme: str, rest: str) -> None:
    for url in (f"s3://{rest}", f"file://{rest}", f"s3://my-data?{rest}", f"{scheme}://{rest}"):
        try:
            _ = load(url)
        except ConfigError:
            continue


def test_a_hostile_number_of_problems_is_cut_short() -> None:
    message = refused("s3://my-data?" + "&".join(f"k{number}=1" for number in range(3000)))
    assert message.endswith("; and 2950 more problems")


# YAML files


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "store.yaml"
    _ = path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_yaml_of_the_design(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        block_store:
          type: s3
          s3:
            bucket: my-data
            region: us-east-1
            endpoint: ""
            key_prefix: "blocks/"
            force_path_style: false
            access_key: ""
            secret_key: ""
            session_token: ""
            max_attempts: 10
            timeouts: {connect: 3, no_progress: 20, deadline: null}
            http:
              max_connections: 50
              ca_bundle:
        """,
    )
    config = load_s3(path)
    assert (config.bucket, config.key_prefix, config.max_attempts) == ("my-data", "blocks/", 10)
    assert (config.timeouts.connect, config.timeouts.deadline) == (3, None)
    assert (config.http.max_connections, config.http.ca_bundle) == (50, "")
    assert load_s3(str(path)) == config


def test_a_mapping_of_texts_comes_from_everywhere(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        block_store:
          s3:
            bucket: my-data
            put: {acl: private, tags: {project: 0123, "a b": ""}, metadata: {}, kms_context: null}
        """,
    )
    put = load_s3(path).put
    assert (put.acl, put.tags) == ("private", {"project": "0123", "a b": ""})
    assert (put.metadata, put.kms_context) == (None, None)
    url = "s3://my-data?tags=" + quote('{"project": "archive"}')
    assert load_s3(url).put.tags == {"project": "archive"}
    environ = {
        "BLOCKYARD_S3_PUT_TAGS": '{"of": "films"}',
        "BLOCKYARD_S3_PUT_METADATA": '{"a": "b"}',
    }
    for source in ("s3://my-data", path, url):
        found = load_s3(source, environ)
        assert found.put.metadata == {"a": "b"}
        assert found.put.tags == (load_s3(source).put.tags or {"of": "films"})
        given = load_s3(source, environ, tags={"own": "1"}, put={"metadata": {}})
        assert (given.put.tags, given.put.metadata) == ({"own": "1"}, {})
        assert load_s3(source, environ, put={"tags": {"own": "2"}}).put.tags == {"own": "2"}
    config = StoreConfig(s3=found)
    assert len({config, load_config(config, {}, {})}) == 1
    assert load_config(config, {"tags": {"own": "3"}}, {}).s3.put.tags == {"own": "3"}


@pytest.mark.parametrize("put", ["tags: {a: {b: c}}", "tags: [a]", "tags: {a: null}", "tags: a"])
def test_a_file_with_a_mapping_that_is_none_of_texts(put: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"block_store: {{s3: {{bucket: my-data, put: {{{put}}}}}}}")
    assert "block_store.s3.put.tags (line 1): expected a mapping of texts" in refused(path)


def test_yaml_of_other_types(tmp_path: Path) -> None:
    path = write(tmp_path, "block_store: {type: file, file: {path: /blocks}}")
    assert load(path).selected == FileConfig(path=Path("/blocks"))
    assert load(write(tmp_path, "block_store: {type: memory}")).selected is None


def test_yaml_scalars_are_what_they_look_like(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "block_store: {s3: {bucket: 0123, region: no, endpoint: 'h:1', access_key: 1e3,"
        " secret_key: 2026-01-01, force_path_style: yes, sign_payload: !!str auto}}",
    )
    config = load_s3(path)
    assert (config.bucket, config.region, config.access_key) == ("0123", "no", "1e3")
    assert config.secret_key.reveal() == "2026-01-01"
    assert config.force_path_style


def test_home_folder_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _ = write(tmp_path, "block_store: {type: memory}")
    assert load("~/store.yaml").type == "memory"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "block_store: expected a mapping with the key block_store"),
        ("- a", "block_store: expected a mapping with the key block_store"),
        ("hunter2", "block_store: expected a mapping with the key block_store"),
        ("block_stor: {}", "'block_stor': unknown; did you mean 'block_store'?"),
        ("block_store: {}\nother: 1", "'other': unknown; expected one of: block_store"),
        ("s3: {bucket: abc}", "'s3': expected below block_store, and indented"),
        ("type: file\nblock_store: {}", "'type': expected below block_store, and indented"),
        ("block_store:", "block_store: expected a mapping with the store's settings"),
        ("block_store: [s3]", "block_store: expected a mapping with the store's settings"),
        ("block_store: {s3: {region: a b}}", "block_store.s3.bucket: required"),
        ("block_store: {s3: my-data}", "block_store.s3 (line 1): expected a mapping"),
        (
            "block_store: {typ: s3}",
            "block_store.typ (line 1): unknown setting; did you mean 'type'?",
        ),
        ("block_store: {s3: {bucket: abc,\n cache: 1}}", "s3.cache (line 2): unknown setting"),
        (
            "block_store: {s3: {bucket: abc, region: [\na]}}",
            "s3.region (line 1): expected a region",
        ),
        ("block_store: {type: s3, type: file}", "error at line 1: a key is given twice"),
        ("block_store:\n  s3: {a", "expected YAML, got an error at line 2"),
        ("block_store: {a: &x {}, b: *x}", "aliases are not supported"),
        ("block_store: &x {a: *x}", "aliases are not supported"),
        ("[" * 100_000, "expected a YAML file of at most 65536 bytes"),
        ("[" * 60_000, "nested too deeply"),
        ("? {a: b}\n: c", "a key must be a plain word"),
        ("block_store: {? }", "a key must be a plain word"),
        ("a: 1\n---\nb: 2", "expected YAML, got an error"),
        (b"\xff\xfe\xff", "expected YAML in UTF-8 or UTF-16"),
        (b"block_store: \xff", "expected YAML in UTF-8 or UTF-16"),
        ("a: b\nblock_store: \x07", "got a control character, U+0007, at line 2"),
        ("a: b\nc: \0".encode("utf-16"), "got a control character, U+0000, at line 2"),
        ("block_store: {s3: {secret_key: !hunter2!x y}}", "found undefined tag handle ..."),
        ("Hunter2: {}", "a name that is not shown: unknown; expected one of: block_store"),
        ("block_store: {s3: {bucket: abc, Hunter2: 1}}", "a name that is not shown (line 1): unk"),
        ("block_store: {TYPE: s3}", "block_store.TYPE (line 1): unknown setting; did you mean"),
    ],
)
def test_files_that_configure_nothing(tmp_path: Path, text: str | bytes, reason: str) -> None:
    path = write(tmp_path, text)
    message = refused(path)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "hunter2" not in message


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "it is no regular file"),
        ("/dev/zero", "it is no regular file"),
        ("a\0b", "null byte"),
        ("", "No such file"),
    ):
        message = refused(path)
        assert "expected a store URL (s3://, file://, memory://) or the path of a YAML" in message
        assert reason in message


@pytest.mark.parametrize(
    "source",
    [
        "s3:/my-data?secret_key=hunter2",
        "s3//my-data?secret_key=hunter2",
        "my-data?secret_key=hunter2",
        Path("s3://my-data?secret_key=hunter2"),
        Path("s3://AKIA:hunter2@my-data"),
    ],
)
def test_a_url_that_is_none_is_told_of_without_its_secret(source: str | Path) -> None:
    for message in (refused(source), refused(None, {"BLOCKYARD_STORE": str(source)})):
        assert "this is not: a URL has '://'" in message
        assert "hunter2" not in message
    assert message.startswith("BLOCKYARD_STORE: ")


@given(st.text(alphabet=st.sampled_from("blocktre_s3: {}[]&*!|>-?,'\"%\n\t#a0é"), max_size=80))
@example("!!bool x")
@example("!!timestamp x")
@example("!!python/object/apply:os.system [true]")
def test_only_config_errors_escape_from_yaml(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for content in (text, f"block_store: {{s3: {text}}}"):
        try:
            _ = load(write(folder, content))
        except ConfigError:
            continue


# Keyword arguments, models, and other things that name a store


def test_keyword_arguments_win_over_the_source(tmp_path: Path) -> None:
    url = "s3://my-data/a?region=eu-west-1&connect=3&no_progress=4"
    config = load_s3(url, region="eu-west-2", connect=5, timeouts={"deadline": 6})
    assert (config.region, config.key_prefix) == ("eu-west-2", "a/")
    assert config.timeouts == TimeoutConfig(connect=5, no_progress=4, deadline=6)
    path = write(tmp_path, "block_store: {s3: {bucket: my-data, region: eu-west-1}}")
    assert load_s3(path, region="eu-west-2").region == "eu-west-2"
    assert load("file:///a", path="/b").file == FileConfig(path=Path("/b"))


def test_keyword_arguments_alone() -> None:
    assert load_s3(bucket="my-data", timeouts=TimeoutConfig(connect=4)).timeouts.connect == 4


@pytest.mark.parametrize("source", ["s3://my-data", "file:///a", "memory://"])
def test_a_cache_for_every_type_of_store(source: str, tmp_path: Path) -> None:
    assert load(source).cache is None
    cache = load(source, cache={"memory": "64MiB", "revalidate": "never"}).cache
    assert cache == CacheConfig(memory=64 * MIB, revalidate="never")
    assert cache.mode == "write_through"
    assert load(source, cache={"revalidate": "10"}).cache == CacheConfig(revalidate=10.0)
    with pytest.raises(ConfigError, match=r"block_store\.cache\.mode .*: expected write_through"):
        _ = load(source, cache={"mode": "write_back"})

    path = write(tmp_path, "block_store: {s3: {bucket: my-data}, cache: {memory: 1GiB}}")
    assert load(path).cache == CacheConfig(memory=1024 * MIB)
    assert load(path, cache=CacheConfig(revalidate=1)).cache == CacheConfig(
        memory=1024 * MIB, revalidate=1.0
    )


@pytest.mark.parametrize(
    "text", ["{}", "{memory: }", "{memory: '', disk: {path: , size: }}", "{disk: {}}"]
)
def test_a_cache_of_nothing_but_defaults_is_one(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"block_store: {{type: memory, cache: {text}}}")
    assert load(path).cache == CacheConfig()


def test_a_cache_of_nothing_but_defaults_by_an_argument() -> None:
    for cache in ({}, {"memory": None}, CacheConfig()):
        config = load("memory://", cache=cache)
        assert config.cache == CacheConfig()
        assert portable(config).load({}).cache == CacheConfig()
        assert load(config, cache={"revalidate": "always"}).cache == CacheConfig(
            revalidate="always"
        )
    assert load("memory://", cache=None).cache is None


def test_an_empty_section_is_no_more_than_its_defaults(tmp_path: Path) -> None:
    text = "{s3: {bucket: my-data, timeouts: {connect: 3}, http: {}}, file: {path: }, cache: }"
    config = load(write(tmp_path, f"block_store: {text}"), timeouts={}, http=HttpConfig())
    assert config.s3 == S3Config(bucket="my-data", timeouts=TimeoutConfig(connect=3))
    assert (config.file, config.cache) == (None, None)
    assert "timeouts: expected a mapping" in refused("s3://my-data?timeouts=5", timeouts={})
    message = refused(write(tmp_path, "block_store: {s3: {bucket: abc, region: {}, foo: {}}}"))
    assert "s3.region: expected a region" in message
    assert "s3.foo: unknown setting" in message


def test_a_cache_on_disk(tmp_path: Path) -> None:
    text = "block_store: {s3: {bucket: b-b}, cache: {memory: 0, disk: {path: /c, size: 8MiB}}}"
    cache = load(write(tmp_path, text)).cache
    assert cache == CacheConfig(memory=0, disk=CacheDiskConfig(path=Path("/c"), size=8 * MIB))
    for wrong, message in (
        ({"memory": 0}, r"cache\.memory .*: expected .*there is no disk either"),
        ({"disk": {"path": "/c"}}, r"cache\.disk\.size: required"),
        ({"disk": {"path": "/c", "size": "7MiB"}}, r"cache\.disk\.size .*: expected a size from"),
        ({"disk": "/c"}, r"cache\.disk .*: expected a mapping"),
    ):
        with pytest.raises(ConfigError, match=message):
            _ = load("s3://my-data", cache=wrong)
    with pytest.raises(ConfigError, match=r"cache.*gone with its process"):
        _ = load("memory://", cache={"disk": {"path": "/c", "size": "8MiB"}})


def test_keyword_arguments_are_checked() -> None:
    message = "store URL: block_store.s3.regoin (from an argument): unknown setting; did you mean"
    assert message in refused("s3://my-data", regoin="x")
    assert "has no settings but cache, got region" in refused("memory://", region="x")
    assert "block_store.file.region (from an argument): unknown setting" in refused(
        "file:///a", region="x"
    )
    assert "hunter2" not in refused("s3://my-data", secret_key="hunter2", access_key="a b")


@pytest.mark.parametrize("url", ["memory://", "file:///a"])
def test_what_a_view_sets_is_said_so(url: str) -> None:
    for name in ("deadline", "concurrency"):
        assert f", got {name}; with_options sets it" in refused(url, **{name: 4})
    assert "with_options" not in refused(url, region="x")


@pytest.mark.parametrize("name", ["put.tags", "timeouts.connect"])
def test_a_setting_by_its_name_in_the_table_is_told_its_name_here(name: str) -> None:
    short = name.partition(".")[2]
    message = f"in a URL or an argument it is '{short}', in YAML block_store.s3.{name}"
    assert message in refused(f"s3://my-data?{name}=1")
    assert message in refused("s3://my-data", **{name: 1})


def test_a_folder_in_yaml_without_its_type(tmp_path: Path) -> None:
    path = tmp_path / "store.yaml"
    _ = path.write_text("block_store: {file: {path: /srv/blocks}}")
    for environ in ({}, {"AWS_REGION": "eu-central-1"}):
        with pytest.raises(ConfigError, match=r"store\.yaml: block_store\.type: expected file"):
            _ = load_config(path, {}, environ)


def test_a_store_config_is_complete_as_it_is() -> None:
    config = StoreConfig(s3=S3Config(bucket="my-data"))
    environ = {"BLOCKYARD_S3_REGION": "eu-west-1", "AWS_REGION": "eu-west-1"}
    assert load(config, environ) is config
    changed = load_s3(config, environ, max_attempts=2)
    assert (changed.bucket, changed.region, changed.max_attempts) == ("my-data", "us-east-1", 2)


def test_secrets_of_a_store_config_are_kept_when_it_is_changed() -> None:
    config = StoreConfig(s3=S3Config(bucket="my-data", access_key="A", secret_key="hunter2"))  # pyright: ignore[reportArgumentType]
    assert load_s3(config, region="eu-west-1").secret_key.reveal() == "hunter2"


def test_each_problem_says_where_its_value_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, "block_store:\n  s3:\n    region: a b\n    bucket: my-data\n")
    environ = {"BLOCKYARD_S3_CONCURRENCY": "0", "AWS_CA_BUNDLE": "/none.pem"}
    message = refused(path, environ, key_prefix="a\nb", timeouts={"conect": 3}, http={"proxy": "x"})
    assert message.startswith(f"{path}: ")
    for place in (
        "block_store.s3.region (line 3): expected",
        "block_store.s3.concurrency (from BLOCKYARD_S3_CONCURRENCY): expected",
        "block_store.s3.http.ca_bundle (from AWS_CA_BUNDLE): expected",
        "block_store.s3.key_prefix (from an argument): expected",
        "block_store.s3.timeouts.conect (from an argument): unknown",
        "block_store.s3.http.proxy (from an argument): expected",
    ):
        assert place in message
    assert message.count("block_store") == 6


def test_no_source_at_all() -> None:
    assert "no store is named: pass a URL" in refused()
    assert "or set BLOCKYARD_STORE" in refused(region="eu-west-1")


# The environment


def test_blockyard_store_names_the_store(tmp_path: Path) -> None:
    assert load(None, {"BLOCKYARD_STORE": "memory://"}).type == "memory"
    path = write(tmp_path, "block_store: {type: memory}")
    assert load(None, {"BLOCKYARD_STORE": str(path)}).type == "memory"
    assert load("file:///a", {"BLOCKYARD_STORE": "memory://"}).type == "file"
    assert "BLOCKYARD_STORE: store URL: block_store.s3.bucket" in refused(
        None, {"BLOCKYARD_STORE": "s3://B"}
    )


def test_every_setting_has_a_variable() -> None:
    variables = {
        "BLOCKYARD_" + "_".join(path).upper(): ".".join(path)
        for path in settings_below(S3Config, ("s3",))
    }
    assert "BLOCKYARD_S3_TIMEOUTS_NO_PROGRESS" in variables
    message = refused(None, dict.fromkeys(variables, "\n"))
    for variable, path in variables.items():
        assert f"block_store.{path} (from {variable}): expected" in message


def test_a_variable_that_is_no_setting_is_refused() -> None:
    message = refused("s3://my-data", {"BLOCKYARD_S3_REGOIN": "hunter2"})
    assert "block_store.s3.regoin (from BLOCKYARD_S3_REGOIN): unknown setting; did you" in message
    assert "hunter2" not in message


def test_the_bucket_may_come_from_the_environment_alone() -> None:
    assert load_s3(None, {"BLOCKYARD_S3_BUCKET": "my-data"}).bucket == "my-data"


def test_precedence() -> None:
    environ = {
        "BLOCKYARD_S3_REGION": "blockyard",
        "AWS_REGION": "aws",
        "AWS_DEFAULT_REGION": "aws-default",
    }
    assert load_s3("s3://my-data?region=url", environ, region="argument").region == "argument"
    assert load_s3("s3://my-data?region=url", environ).region == "url"
    assert load_s3("s3://my-data", environ).region == "blockyard"
    del environ["BLOCKYARD_S3_REGION"]
    assert load_s3("s3://my-data", environ).region == "aws"
    del environ["AWS_REGION"]
    assert load_s3("s3://my-data", environ).region == "aws-default"
    assert load_s3("s3://my-data").region == "us-east-1"


def test_aws_endpoint_and_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    _ = bundle.write_text("")
    environ = {
        "AWS_ENDPOINT_URL": "http://general:1",
        "AWS_ENDPOINT_URL_S3": "http://special:1",
        "AWS_CA_BUNDLE": str(bundle),
    }
    config = load_s3("s3://my-data", environ)
    assert (config.endpoint, config.http.ca_bundle) == ("http://special:1", str(bundle))
    del environ["AWS_ENDPOINT_URL_S3"]
    assert load_s3("s3://my-data", environ).endpoint == "http://general:1"


def test_the_bundle_of_requests_comes_after_that_of_aws(tmp_path: Path) -> None:
    bundles = [tmp_path / name for name in ("aws.pem", "requests.pem")]
    for bundle in bundles:
        _ = bundle.write_text("")
    environ = {"REQUESTS_CA_BUNDLE": str(bundles[1]), "AWS_CA_BUNDLE": str(bundles[0])}
    assert load_s3("s3://my-data", environ).http.ca_bundle == str(bundles[0])
    del environ["AWS_CA_BUNDLE"]
    assert load_s3("s3://my-data", environ).http.ca_bundle == str(bundles[1])
    message = refused("s3://my-data", {"REQUESTS_CA_BUNDLE": str(tmp_path)})
    assert "(from REQUESTS_CA_BUNDLE): expected the path of a PEM file" in message


@pytest.mark.parametrize("kind", ["FIPS", "DUALSTACK"])
def test_kinds_of_endpoints_from_the_environment(kind: str) -> None:
    variable, setting = f"AWS_USE_{kind}_ENDPOINT", f"use_{kind.lower()}_endpoint"
    for value in ("true", "True", "TRUE"):
        assert getattr(load_s3("s3://my-data", {variable: value}), setting) is True
    assert getattr(load_s3("s3://my-data", {variable: "false"}), setting) is False
    assert f"(from {variable}): expected true" in refused("s3://my-data", {variable: "perhaps"})
    elsewhere = "s3://my-data?endpoint=http://localhost:9000"
    message = refused(elsewhere, {variable: "true"})
    assert f"(from {variable})" in message
    assert "endpoint is given as well" in message
    assert not getattr(load_s3(elsewhere, {variable: "true"}, **{setting: False}), setting)


def test_endpoints_in_the_environment_that_are_to_be_ignored() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://a:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert load_s3("s3://my-data", environ).endpoint == ""
    environ["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] = "false"
    assert load_s3("s3://my-data", environ).endpoint == "http://a:1"


def test_a_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "store.yaml")
    assert "it is no regular file" in refused(tmp_path / "store.yaml")
    assert "it is no regular file" in refused(
        None, {"BLOCKYARD_STORE": str(tmp_path / "store.yaml")}
    )


def test_an_empty_text_is_the_same_as_nothing(tmp_path: Path) -> None:
    environ = {"BLOCKYARD_S3_REGION": "", "AWS_REGION": "aws", "BLOCKYARD_STORE": ""}
    path = write(tmp_path, "block_store: {s3: {bucket: my-data, region: ''}}")
    assert load_s3(path, environ).region == "aws"
    assert load_s3("s3://my-data?region=", environ, region=None).region == "aws"


def test_credentials_are_taken_from_one_place() -> None:
    environ = {
        "BLOCKYARD_S3_ACCESS_KEY": "THEIRS",
        "BLOCKYARD_S3_SECRET_KEY": "theirs",
        "BLOCKYARD_S3_SESSION_TOKEN": "theirs",
    }
    assert load_s3("s3://my-data", environ).session_token.reveal() == "theirs"
    own = load_s3("s3://my-data?access_key=MINE&secret_key=mine", environ)
    assert (own.access_key, own.session_token.reveal()) == ("MINE", "")
    assert load_s3("s3://my-data?anonymous=true", environ).access_key == ""
    assert load_s3("s3://my-data?profile=mine", environ).access_key == ""
    url = "s3://my-data?access_key=MINE&secret_key=mine&session_token=mine"
    other = load_s3(url, access_key="OTHER", secret_key="other")
    assert (other.access_key, other.session_token.reveal()) == ("OTHER", "")


def test_a_variable_that_has_no_effect_is_refused() -> None:
    cache = {"BLOCKYARD_CACHE_MEMORY": "64MiB"}
    for source in ("s3://my-data", "file:///a", "memory://"):
        assert refused(source, cache).startswith("BLOCKYARD_CACHE_MEMORY: unknown; the settings")
    both = cache | {"BLOCKYARD_FILE_PATH": "/x"}
    assert refused("file:///a", both).startswith("BLOCKYARD_CACHE_MEMORY, BLOCKYARD_FILE_PATH: ")
    assert load("s3://my-data", {"BLOCKYARD_FILE_PATH": "/x"}).type == "s3"
    assert load("memory://", {"BLOCKYARD_CACHE_MEMORY": ""}).cache is None
    assert load(StoreConfig(type="memory"), cache, cache={}).cache == CacheConfig()


def test_the_environment_is_for_s3_alone() -> None:
    environ = {"BLOCKYARD_S3_REGOIN": "x", "BLOCKYARD_S3_BUCKET": "B"}
    assert load("memory://", environ).s3 is None
    assert load("file:///a", environ).s3 is None


def test_a_variable_does_not_hide_a_section_that_is_wrong() -> None:
    message = refused("s3://my-data?timeouts=5", {"BLOCKYARD_S3_TIMEOUTS_CONNECT": "3"})
    assert "block_store.s3.timeouts: expected a mapping" in message


def test_path_like_sources(tmp_path: Path) -> None:
    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "store.yaml")

    _ = write(tmp_path, "block_store: {type: memory}")
    assert load(Named()).type == "memory"
