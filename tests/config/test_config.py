"""Each setting: what it may be, what it becomes, and what its error says."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, asdict, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin

import pytest

from blockyard.config import (
    FileConfig,
    HttpConfig,
    S3Config,
    Secret,
    StoreConfig,
    TimeoutConfig,
)
from blockyard.config.cache import CacheDiskConfig
from blockyard.config.loading import load_config
from blockyard.config.sections import Section, settings_below, walk
from blockyard.errors import ConfigError
from tests.config.setting_types import types_below

ELSEWHERE = "http://localhost:9000"


def s3(**settings: Any) -> S3Config:
    return S3Config(**{"bucket": "my-data", **settings})


def config_error(model: type[Section], **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _ = model(**settings)
    return str(caught.value)


def refused(**settings: Any) -> str:
    return config_error(S3Config, **{"bucket": "my-data", **settings})


def test_defaults_are_those_of_the_design() -> None:
    config = S3Config(bucket="my-data")
    assert config.region == "us-east-1"
    assert config.endpoint == config.key_prefix == config.access_key == ""
    assert (config.max_attempts, config.concurrency, config.sign_payload) == (10, 32, "auto")
    assert not config.force_path_style
    assert not config.anonymous
    assert (config.http.max_connections, config.http.max_idle) == (200, 200)
    assert config.http.keep_alive == 30
    assert config.timeouts.deadline is None


def test_models_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        s3().region = "eu-central-1"  # pyright: ignore[reportAttributeAccessIssue]


WRONG: dict[type, list[Any]] = {
    bool: ["perhaps", "", bytearray(b"1"), 2, b"true", None, [True], 1.5, 1.0],
    int: [True, False, 1.5, "1.5", "x", b"1", [1], {}],
    float: [True, "x", b"1", "nan", float("nan"), [1.0], {}],
    str: [1, True, b"text", bytearray(b"a"), ["a"], {}, "a\nb", "a\0b"],
    Secret: [1, True, b"text", bytearray(b"a"), ["a"], {}, "a\nb", "a\0b"],
    Mapping: [1, True, b"{}", ["a"], "", "a", "[1]", '{"a": 1}', "[" * 5000, {"a": 1}, {1: "a"}],
    Path: [1, True, b"/a", ["/a"], {}, "/a\nb", "/a\0b"],
}
"""Values that no setting of the type may have."""

SINGLE = types_below(StoreConfig)


def type_of(annotation: Any) -> type:
    """What a setting holds that is not None; a choice among texts is a text."""
    kind = (get_args(annotation) or (annotation,))[0]
    kind = get_origin(kind) or kind
    return kind if isinstance(kind, type) else str


@pytest.mark.parametrize("path", SINGLE, ids=".".join)
def test_every_setting_refuses_what_is_of_another_type(path: tuple[str, ...]) -> None:
    """A setting of a type that is not in the table fails here."""
    for value in WRONG[type_of(SINGLE[path])]:
        if value is None and path[-1] == "deadline":
            continue
        settings: Any = value
        for name in reversed(path):
            settings = {name: settings}
        with pytest.raises(ConfigError) as caught:
            _ = StoreConfig(**settings)
        assert f"block_store.{'.'.join(path)}: expected " in str(caught.value), value


def test_whole_numbers_of_other_libraries_are_welcome() -> None:
    class Whole:
        def __index__(self) -> int:
            return 7

    config = s3(concurrency=Whole(), max_attempts=Whole(), in_flight=2**21, http={"max_idle": 7.0})
    assert (config.concurrency, config.max_attempts, config.http.max_idle) == (7, 7, 7)
    assert s3(max_attempts=Decimal(3), timeouts={"connect": Decimal("3.5")}).max_attempts == 3


def test_text_of_an_enum_is_its_value() -> None:
    class Region(StrEnum):
        EU = "eu-west-1"

    region = s3(region=Region.EU).region
    assert (type(region), region) == (str, "eu-west-1")


@pytest.mark.parametrize("word", ["true", "True", "T", "yes", "Y", "on", "1", 1])
def test_words_that_mean_true(word: object) -> None:
    assert s3(force_path_style=word).force_path_style is True


@pytest.mark.parametrize("word", ["false", "FALSE", "f", "no", "N", "off", "0", 0])
def test_words_that_mean_false(word: object) -> None:
    assert s3(force_path_style=word).force_path_style is False


def test_a_section_may_be_any_mapping() -> None:
    assert s3(timeouts=MappingProxyType({"connect": 3})).timeouts == TimeoutConfig(connect=3)
    assert "timeouts: expected a mapping" in refused(timeouts=HttpConfig())


def test_every_setting_describes_itself() -> None:
    fields = dict(walk(StoreConfig))
    nameless = [path for path in settings_below(StoreConfig) if not fields[path].expected]
    assert nameless == []


def test_settings_have_names_of_their_own() -> None:
    names = [path[-1] for path in settings_below(S3Config)]
    assert len(names) == len(set(names)), "URLs and keyword arguments name them without section"


# Buckets, regions, key prefixes


@pytest.mark.parametrize("name", ["abc", "my-data", "a.b.c", "0" * 63, "x--alias-s3alias"])
def test_bucket_at_aws(name: str) -> None:
    assert s3(bucket=name).bucket == name


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "a" * 64,
        "My-Data",
        "my_data",
        "-abc",
        "abc-",
        "a..b",
        "192.168.0.1",
        "a/b",
        "a b",
        "é",
    ],
)
def test_bucket_that_aws_refuses(name: str) -> None:
    message = refused(bucket=name)
    assert message.startswith("block_store.s3.bucket: expected the name of a bucket, got ")
    assert repr(name)[:20] in message


RESERVED = {
    "base--use1-az5--x-s3": "S3 Express",
    "point--use1-az5--xa-s3": "S3 Express",
    "point-0123456789--ol-s3": "Object Lambda",
    "point-0123456789--op-s3": "Outposts",
    "base--table-s3": "table bucket",
    "mfzwi23gnjvgw.mrap": "multi-Region access point",
}


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize(
    "endpoint", ["", "https://s3.eu-west-1.amazonaws.com", "https://s3express.c2s.ic.gov:443"]
)
def test_names_that_aws_reserves_for_other_things(name: str, endpoint: str) -> None:
    message = refused(bucket=name, endpoint=endpoint)
    assert RESERVED[name] in message
    assert " use " in message, "it says what to use instead"


def test_such_names_elsewhere() -> None:
    assert s3(bucket="base--x-s3", endpoint=ELSEWHERE).bucket == "base--x-s3"


@pytest.mark.parametrize("endpoint", ["", ELSEWHERE])
@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:s3:us-west-2:123456789012:accesspoint",
        "arn:aws:s3:::my-data",
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/a",
    ],
)
def test_an_arn_is_refused_with_advice(arn: str, endpoint: str) -> None:
    assert "an ARN is not supported: use the name of the bucket, or the alias" in refused(
        bucket=arn, endpoint=endpoint
    )


@pytest.mark.parametrize("name", ["My_Data", "a" * 255, "192.168.0.1", "abc-"])
def test_bucket_of_older_rules_elsewhere(name: str) -> None:
    assert s3(bucket=name, endpoint=ELSEWHERE).bucket == name


@pytest.mark.parametrize("name", ["ab", "a" * 256, "a/b", "a b", "..", "a?b", "a#b", "é.."])
def test_bucket_that_no_service_has(name: str) -> None:
    assert "block_store.s3.bucket" in refused(bucket=name, endpoint=ELSEWHERE)


@pytest.mark.parametrize("name", ["eu-central-1", "auto", "garage", "my_region", "R1"])
def test_region(name: str) -> None:
    assert s3(region=name).region == name


@pytest.mark.parametrize("name", ["", "eu central", "eu/1", "a.b", "x" * 64, "-a"])
def test_region_that_breaks_hosts_or_signatures(name: str) -> None:
    assert "block_store.s3.region: expected a region such as" in refused(region=name)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", ""), ("blocks", "blocks/"), ("blocks/", "blocks/"), ("a b/ü//", "a b/ü//"), ("/", "/")],
)
def test_key_prefix_is_a_folder(given: str, kept: str) -> None:
    assert s3(key_prefix=given).key_prefix == kept


def test_key_prefix_leaves_room_for_a_key() -> None:
    assert len(s3(key_prefix="x" * 1022).key_prefix) == 1023
    assert "1024 bytes leave no room" in refused(key_prefix="x" * 1023)
    assert "no room" in refused(key_prefix="ü" * 512)


# Endpoints and proxies


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("localhost:9000", "https://localhost:9000"),
        ("minio_1:9000", "https://minio_1:9000"),
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("HTTPS://S3.Example.COM", "https://s3.example.com"),
        ("[::1]:9000", "https://[::1]:9000"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
        ("Host:9/Storage/v1/S3/", "https://host:9/Storage/v1/S3"),
        ("https://[::1]:9/a%20b", "https://[::1]:9/a%20b"),
        ("https://s3.example.", "https://s3.example."),
    ],
)
def test_endpoint(given: str, kept: str) -> None:
    assert s3(endpoint=given).endpoint == kept


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("ftp://host", "neither http nor https"),
        ("http://host/a/../b", "not '.' or '..' alone"),
        ("http://host/./b", "not '.' or '..' alone"),
        ("http://host/a b", "the path may have segments"),
        ("http://host/a%2fb", "the path may have segments"),
        ("http://host//b", "the path may have segments"),
        ("http://host/a?x=1", "the path may have segments"),
        ("http://host?x=1", "only a host name and a port"),
        ("http://host#x", "only a host name and a port"),
        ("http://", "only a host name and a port"),
        ("http://a..b", "only a host name and a port"),
        ("http://höst", "only a host name and a port"),
        ("host name", "only a host name and a port"),
        ("host:", "not a number from 1 to 65535"),
        ("host:0", "not a number from 1 to 65535"),
        ("host:65536", "not a number from 1 to 65535"),
        ("host:90x", "not a number from 1 to 65535"),
        ("[::1]9000", "not a number from 1 to 65535"),
        ("[::1", "brackets"),
        ("[::zz]:1", "IPv6 address"),
        ("[fe80::1%eth0]:1", "IPv6 address"),
        ("::1", "only a host name"),
    ],
)
def test_endpoint_that_is_none(endpoint: str, reason: str) -> None:
    message = refused(endpoint=endpoint)
    assert message.startswith("block_store.s3.endpoint: expected http://HOST[:PORT]")
    assert reason in message


@pytest.mark.parametrize("setting", ["use_fips_endpoint", "use_dualstack_endpoint"])
def test_a_kind_of_endpoint_of_aws_and_an_endpoint_of_ones_own(setting: str) -> None:
    assert f"{setting}: expected true" in refused(endpoint=ELSEWHERE, **{setting: True})
    assert "endpoint is given as well" in refused(endpoint=ELSEWHERE, **{setting: "true"})
    assert not getattr(s3(endpoint=ELSEWHERE, **{setting: "False"}), setting)


def test_there_is_no_fips_in_china() -> None:
    assert "the regions of China" in refused(region="cn-north-1", use_fips_endpoint=True)
    assert s3(region="cn-north-1", use_dualstack_endpoint=True).use_dualstack_endpoint


@pytest.mark.parametrize(
    "proxy", ["http://proxy:3128", "http://user:pw@10.0.0.1", "http://[::1]:1"]
)
def test_proxy(proxy: str) -> None:
    assert HttpConfig(proxy=proxy).proxy.reveal() == proxy  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "proxy",
    ["proxy:3128", "socks5://proxy", "http://", "http://a/b", "http://u:p@", "http://u:1/p@a:1"],
)
def test_proxy_that_is_none(proxy: str) -> None:
    assert "block_store.s3.http.proxy: expected http://[USER" in config_error(
        HttpConfig, proxy=proxy
    )


# Numbers and words


@pytest.mark.parametrize("name", ["connect", "no_progress", "deadline", "unacknowledged"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e9, "soon", "", []])
def test_timeouts_are_seconds(name: str, value: object) -> None:
    message = config_error(TimeoutConfig, **{name: value})
    assert f"block_store.s3.timeouts.{name}: expected seconds, more than 0" in message


@pytest.mark.parametrize("name", ["max_attempts", "concurrency"])
@pytest.mark.parametrize("value", [-1, 0, 1.5, "many", pytest.param(10**5000, id="huge"), None])
def test_counts_are_whole_numbers(name: str, value: object) -> None:
    assert f"block_store.s3.{name}: expected a whole number" in refused(**{name: value})


@pytest.mark.parametrize("name", ["max_connections", "max_idle", "keep_alive"])
def test_pool_sizes_are_not_negative(name: str) -> None:
    assert f"block_store.s3.http.{name}: expected" in config_error(HttpConfig, **{name: -1})


@pytest.mark.parametrize(
    "settings",
    [
        {"timeouts": {"connect": "1_0"}},
        {"timeouts": {"connect": "٣"}},
        {"max_attempts": "1_0"},
        {"max_attempts": "٣"},
        {"in_flight": "٣MiB"},
        {"in_flight": "6_4MiB"},
    ],
)
def test_digits_are_those_of_ascii_alone(settings: dict[str, Any]) -> None:
    assert "expected" in refused(**settings)


def test_numbers_and_words_may_come_as_text() -> None:
    config = s3(max_attempts="3", force_path_style="true", timeouts={"connect": "2.5"})
    assert (config.max_attempts, config.force_path_style) == (3, True)
    assert config.timeouts.connect == 2.5


def test_a_choice_lists_what_can_be_chosen() -> None:
    assert "auto (bodies" in refused(sign_payload="maybe")
    assert "block_store.type: expected s3, file or memory, got 'gcs'" in config_error(
        StoreConfig, type="gcs"
    )


def test_no_line_end_or_nul_anywhere() -> None:
    fields = dict(walk(S3Config))
    for path in settings_below(S3Config):
        for character in "\r\n\0":
            settings: dict[str, Any] = {path[-1]: f"a{character}b"}
            message = refused(**({path[0]: settings} if len(path) > 1 else settings))
            assert ".".join(("block_store", "s3", *path)) in message
            assert fields[path].expected in message


# Credentials


def test_keys_go_together() -> None:
    assert "one is missing" in refused(access_key="AKIA")
    assert "one is missing" in refused(secret_key="hunter2")
    assert "access_key and secret_key are missing" in refused(session_token="hunter2")
    assert "access_key is given as well" in refused(
        access_key="AKIA", secret_key="hunter2", anonymous=True
    )
    assert "access_key is given as well" in refused(
        access_key="AKIA", secret_key="hunter2", profile="other"
    )
    assert "anonymous is given as well" in refused(anonymous=True, profile="other")


@pytest.mark.parametrize("key", ["a b", "a/b", "a,b", "a=b", "ä", " a"])
def test_access_key_that_breaks_the_header(key: str) -> None:
    assert "block_store.s3.access_key: expected" in refused(access_key=key, secret_key="x")


def test_white_space_around_a_secret_is_a_slip() -> None:
    message = refused(access_key="AKIA", secret_key="hunter2 ")
    assert "block_store.s3.secret_key" in message
    assert "white space" in message
    assert "hunter2" not in message


# Files


def test_files_must_be_there(tmp_path: Path) -> None:
    for name in ("ca_bundle", "client_cert"):
        message = config_error(HttpConfig, **{name: str(tmp_path / "none.pem")})
        assert f"block_store.s3.http.{name}: expected the path of a PEM file" in message
        assert "there is no such file" in message
    assert "no such file" in config_error(HttpConfig, ca_bundle=str(tmp_path))


def test_files_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _ = (tmp_path / "ca.pem").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert HttpConfig(ca_bundle="ca.pem").ca_bundle == str(tmp_path / "ca.pem")
    assert HttpConfig(ca_bundle="~/ca.pem").ca_bundle == str(tmp_path / "ca.pem")
    assert FileConfig(path=Path("blocks")).path == tmp_path / "blocks"
    assert FileConfig(path=Path("~/blocks")).path == tmp_path / "blocks"


def test_a_folder_of_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As requests takes one from REQUESTS_CA_BUNDLE."""
    _ = (tmp_path / "4a6481c9.0").write_text("")
    assert HttpConfig(ca_bundle=str(tmp_path)).ca_bundle == str(tmp_path)
    assert "no such file" in config_error(HttpConfig, client_cert=str(tmp_path))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    store = load_config("s3://my-data", {}, os.environ)
    assert isinstance(store.selected, S3Config)
    assert store.selected.http.ca_bundle == str(tmp_path)


def test_a_home_that_is_not_there_is_no_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` would be one, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for path in ("~nobody-of-that-name/blocks", Path("~nobody-of-that-name")):
        assert "no such home folder" in config_error(FileConfig, path=path)
        assert "no such home folder" in config_error(CacheDiskConfig, path=path, size="8MiB")
    assert FileConfig(path="./~blocks").path == tmp_path / "~blocks"


def test_paths_while_the_working_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for message in (
        config_error(FileConfig, path="blocks"),
        config_error(CacheDiskConfig, path="cache", size="8MiB"),
        config_error(HttpConfig, ca_bundle="ca.pem"),
    ):
        assert "the working folder is gone" in message
    assert FileConfig(path=tmp_path / "blocks").path == tmp_path / "blocks"


def test_paths_that_no_file_can_have() -> None:
    for message in (
        config_error(FileConfig, path="/blocks/\ud800"),
        config_error(CacheDiskConfig, path="/cache/\ud800", size="8MiB"),
        config_error(HttpConfig, ca_bundle="/\ud800"),
    ):
        assert "can't be written as a path: surrogates not allowed" in message
    assert FileConfig(path="/blocks/\udcff").path == Path("/blocks/\udcff")


def test_a_secret_that_is_no_text() -> None:
    message = refused(access_key="AKIA", secret_key="hunter2\ud800")
    assert "block_store.s3.secret_key" in message
    assert "not valid unicode" in message
    assert "hunter2" not in message
    kept = s3(access_key="AKIA", secret_key="hunter2\udcff")  # bytes of a variable
    assert kept.secret_key.reveal() == "hunter2\udcff"


def test_client_key_needs_its_certificate(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    _ = key.write_text("")
    assert "client_cert is missing" in config_error(HttpConfig, client_key=str(key))
    assert HttpConfig(client_cert=str(key), client_key=str(key)).client_key == str(key)


@pytest.mark.parametrize("path", ["", "a\0b", 3])
def test_folder_that_is_none(path: object) -> None:
    assert "block_store.file.path: expected the path of a folder" in config_error(
        FileConfig, path=path
    )


# The store's type


def test_the_selected_section() -> None:
    section = s3()
    assert StoreConfig(s3=section).selected is section
    folder = FileConfig(path=Path("/blocks"))
    assert StoreConfig(type="file", file=folder, s3=section).selected is folder
    assert StoreConfig(type="memory", s3=section).selected is None


def test_the_section_of_the_type_is_required() -> None:
    assert "block_store.s3: expected a mapping with the settings region" in config_error(
        StoreConfig
    )
    assert "got nothing (type is file)" in config_error(StoreConfig, type="file")
    assert "block_store.s3.bucket: required: the name of a bucket" in config_error(
        StoreConfig, type="memory", s3={}
    )


# Errors


def test_all_problems_come_in_one_message() -> None:
    message = config_error(
        StoreConfig,
        type="s3",
        s3={"bucket": "NO", "region": "", "timeouts": {"connect": 0}, "http": {"max_idle": "x"}},
    )
    for path in ("s3.bucket", "s3.region", "s3.timeouts.connect", "s3.http.max_idle"):
        assert f"block_store.{path}: expected " in message


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("regoin", "did you mean 'region'?"),
        ("no_progres", "did you mean block_store.s3.timeouts.no_progress?"),
        ("no_progress", "did you mean block_store.s3.timeouts.no_progress?"),
        ("timeout", "did you mean 'timeouts'?"),
        ("verify", "did you mean block_store.s3.http.ca_bundle?"),  # boto3's: TLS, no checksums
        ("max_retries", "did you mean 'max_attempts'?"),
        ("read_timeout", "did you mean block_store.s3.timeouts.no_progress?"),
        ("proxies", "did you mean block_store.s3.http.proxy?"),
        ("ServerSideEncryption", "did you mean block_store.s3.put.encryption?"),
        ("secure", "did you mean 'endpoint'?"),
        ("virtual_hosted_style_request", "did you mean 'force_path_style'?"),
        ("key", "did you mean 'access_key'?"),
        ("qqq", "expected one of: region, endpoint, bucket"),
    ],
)
def test_unknown_settings_are_refused_with_advice(name: str, advice: str) -> None:
    message = config_error(StoreConfig, s3={"bucket": "my-data", name: "hunter2"})
    assert f"block_store.s3.{name}: unknown setting; {advice}" in message
    assert "hunter2" not in message


def test_one_kind_of_error_without_the_values_behind_it() -> None:
    with pytest.raises(ConfigError) as caught:
        _ = s3(access_key="AKIA", secret_key="hunter2\n")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"secret_key": 12345678}, "secret_key"),
        ({"secret_key": ["hunter2"]}, "secret_key"),
        (
            {"session_token": "hunter2 hunter2", "access_key": "A", "secret_key": "B"},
            "session_token",
        ),
        ({"secret_kee": "hunter2"}, "secret_kee"),
        ({"endpoint": "http://AKIA:hunter2@host"}, "endpoint"),
        ({"endpoint": "s3://bucket?secret_key=hunter2"}, "endpoint"),
        ({"http": {"proxy": "https://user:hunter2@proxy"}}, "http.proxy"),
        ({"http": {"proxy": "hunter2"}}, "http.proxy"),
        ({"timeouts": {"conect": "hunter2"}}, "timeouts.conect"),
        ({"timeouts": ["hunter2"]}, "timeouts"),
        ({"http": {"max_idle": {"secret": "hunter2"}}}, "http.max_idle"),
    ],
)
def test_errors_hide_secrets(settings: dict[str, Any], path: str) -> None:
    message = refused(**settings)
    assert f"block_store.s3.{path}: " in message
    assert "hunter2" not in message
    assert "12345678" not in message


@pytest.mark.parametrize(
    "settings",
    [
        {"access_key": "hunter2/K7", "secret_key": "AKIAIOSFODNN7EXAMPLE"},
        {"access_key": "hunter2K7", "secret_key": "AKIAIOSFODNN7EXAMPLE"},
        {"access_key": "hunter2 "},
        {"access_key": "hunter2", "secret_key": "x", "anonymous": True},
        {"access_key": "hunter2", "secret_key": "x", "profile": "mine"},
        {"region": "hunter2XUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE"},
        {"endpoint": "http://h#hunter2"},
        {"endpoint": "http://h:hunter2"},
        {"bucket": "AKIA:hunter2"},
        {"expected_bucket_owner": "x:hunter2"},
        {"http": {"proxy": "http://user:hunter2/x@proxy:1"}},
        {"hunter2X": 1},
        {"timeouts": {"hunter2X": 1}},
    ],
)
def test_errors_hide_secrets_in_wrong_places(settings: dict[str, Any]) -> None:
    message = refused(**settings)
    assert "block_store.s3" in message
    assert "hunter2" not in message


def test_keys_that_are_swapped_are_told_of() -> None:
    keys = {"access_key": "wJalrXUtnFEMIK7MDENG", "secret_key": "ASIAIOSFODNN7EXAMPLE"}
    assert "secret_key: expected the secret" in refused(**keys)
    assert "swapped?" in refused(**keys)
    for access_key in ("AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"):
        assert s3(access_key=access_key, secret_key="AKIA/x").access_key == access_key
        assert s3(access_key=access_key, secret_key=access_key).access_key == access_key


def test_values_in_errors_are_short() -> None:
    assert len(refused(region="x" * 100_000)) < 300


def test_secrets_are_not_shown_by_the_models() -> None:
    config = StoreConfig(
        s3=s3(
            access_key="AKIA",
            secret_key="hunter2",
            session_token="hunter2",
            http={"proxy": "http://user:hunter2@proxy"},
        )
    )
    for text in (repr(config), str(config), dumped(config), str(asdict(config))):
        assert "AKIA" in text
        assert "hunter2" not in text


def test_a_configuration_survives_pickling_and_copying() -> None:
    config = StoreConfig(s3=s3(access_key="AKIA", secret_key="hunter2"))
    pickled = pickle.loads(pickle.dumps(config))  # noqa: S301 - made here
    for other in (pickled, copy.copy(config), copy.deepcopy(config)):
        assert other == config
        assert hash(other) == hash(config)
        assert other.given() == config.given()
        assert "hunter2" not in repr(other)


def test_a_changed_copy_is_checked_as_the_first() -> None:
    config = s3(access_key="AKIA", secret_key="hunter2")
    changed = replace(config, region="eu-west-1", timeouts=replace(config.timeouts, connect=3))
    assert (changed.region, changed.timeouts.connect) == ("eu-west-1", 3)
    assert changed.secret_key == config.secret_key
    assert changed != config
    with pytest.raises(ConfigError, match=r"s3\.region: expected a region"):
        _ = replace(config, region="a b")


# Dumped and loaded again


def dumped(section: Section) -> str:
    return json.dumps(asdict(section), default=str)  # pyright: ignore[reportArgumentType]


def test_a_configuration_without_secrets_survives_json() -> None:
    config = StoreConfig(s3=s3(endpoint=ELSEWHERE, timeouts=TimeoutConfig(deadline=3)))
    assert StoreConfig(**json.loads(dumped(config))) == config
    folder = StoreConfig(type="file", file=FileConfig(path=Path("/blocks")))
    assert StoreConfig(**json.loads(dumped(folder))) == folder


@pytest.mark.parametrize(
    "secret", [{"secret_key": "hunter2"}, {"secret_key": "h", "session_token": "hunter2"}]
)
def test_a_secret_that_was_dumped_as_asterisks_is_refused(secret: dict[str, str]) -> None:
    config = StoreConfig(s3=s3(access_key="AKIA", **secret))
    assert StoreConfig(**asdict(config)) == config, "which keeps the secret as it is"
    with pytest.raises(ConfigError, match=rf"s3\.{list(secret)[-1]}: .*only asterisks"):
        _ = StoreConfig(**json.loads(dumped(config)))


def test_a_proxy_that_was_dumped_as_asterisks_is_refused() -> None:
    proxy = json.loads(dumped(HttpConfig(proxy="http://me:hunter2@proxy")))
    assert "http.proxy: expected http://" in config_error(HttpConfig, **proxy)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1}, "('a': expected a text, got int)"),
        ({1: "a"}, "(expected a text for each name, got int)"),
        ({"A": "a"}, "('A': expected names of lower-case letters, digits and -._)"),
        ({"a": "hunter2\n"}, "('a': expected printable ASCII without blanks at its ends)"),
        ({"AKIA" + "x7" * 20: "a"}, "(a value that is not shown: expected names of lower-case"),
        ('{"a": [1]}', "('a': expected a text, got list)"),
    ],
)
def test_the_entry_of_a_mapping_that_is_wrong_is_named(value: object, said: str) -> None:
    message = config_error(S3Config, bucket="my-data", put={"metadata": value})
    assert said in message
    assert "hunter2" not in message
