"""The README and the pages for users: their code runs as it stands, their tables are the code's."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import blockyard
from blockyard.cli import exits
from blockyard.cli.app import app
from blockyard.config import S3Config, Secret
from blockyard.config.loading import environment_layer, load_config
from blockyard.config.sections import Setting, settings_below, walk
from blockyard.errors import BlockStoreError
from blockyard.model import MIB
from blockyard.s3 import retry
from blockyard.s3.integrity import SMALLEST_PAGE
from blockyard.s3.retry import RetryPolicy
from servers.endpoint import Endpoint, create_bucket
from tests.docs.markdown_pages import REPOSITORY, Code, fenced, named, page, prose, table

README = page("README.md")
PAGES = {
    name: page(name)
    for name in (
        "README.md",
        "docs/blocks.md",
        "docs/coming-from-boto3.md",
        "docs/command-line.md",
        "docs/common-mistakes.md",
        "docs/configuration.md",
        "docs/contents.md",
        "docs/distributed.md",
        "docs/errors.md",
        "docs/fsspec.md",
        "docs/guarantees.md",
        "docs/objects.md",
        "docs/obspec.md",
        "docs/services.md",
        "docs/testing-your-code.md",
        "docs/zarr.md",
    )
}
"""What users read. The code of each page runs by itself, from its top to its end."""
WITH_CODE = [name for name, text in PAGES.items() if fenced(text, "python")]
ALL = "\n".join(PAGES.values())
COMMAND_LINE = PAGES["docs/command-line.md"]
CONFIGURATION = PAGES["docs/configuration.md"]
SERVICES = PAGES["docs/services.md"]
BUCKET = "my-data"
SAID = re.compile(r"print\(error\) +# (.+)")
PRINTED = re.compile(r"print\(.+\) +# ([0-9.]+)$", re.MULTILINE)
PROCESSES = re.compile(r"get_context|ProcessPoolExecutor")


@pytest.fixture(scope="module")
def endpoint(moto_endpoint: Endpoint) -> Endpoint:
    """moto, with the bucket that the README takes for granted."""
    create_bucket(moto_endpoint, BUCKET)
    return moto_endpoint


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    """What a reader has: a service and keys in the environment, and the YAML file."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint.url,
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    _ = (tmp_path / "store.yaml").write_text(fenced(CONFIGURATION, "yaml")[0].text)


@pytest.mark.thorough
@pytest.mark.parametrize("name", WITH_CODE)
@pytest.mark.usefixtures("surroundings")
def test_the_python_code_runs_in_order(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for code in fenced(PAGES[name], "python"):
        run(code, name, names)
    printed = capsys.readouterr().out
    for sentence in SAID.findall(PAGES[name]):
        for part in sentence.split("..."):
            assert part.strip() in printed
    for number in PRINTED.findall(PAGES[name]):
        assert number in printed.splitlines()


def test_what_errors_say_is_shown() -> None:
    assert len(SAID.findall(ALL)) == 2
    assert len(PRINTED.findall(ALL)) == 1


@pytest.mark.parametrize("name", [name for name in WITH_CODE if PROCESSES.search(PAGES[name])])
@pytest.mark.usefixtures("surroundings")
def test_code_that_starts_processes_is_a_script_as_it_stands(name: str, tmp_path: Path) -> None:
    """Spawned workers import the script, so what starts them must not run there again."""
    for number, code in enumerate(fenced(PAGES[name], "python")):
        if PROCESSES.search(code.text):
            script = tmp_path / f"script{number}.py"
            _ = script.write_text(code.text)
            ran = subprocess.run(
                [sys.executable, script], check=False, capture_output=True, text=True
            )
            assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr


@pytest.mark.parametrize("url", ["file:///{folder}/blocks", "memory://"])
def test_the_readme_needs_no_bucket(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = url.format(folder=tmp_path.as_posix().lstrip("/"))
    names: dict[str, object] = {}
    for code in fenced(README, "python"):
        run(Code(code.text.replace("s3://my-data/blocks/", url), code.line), "README.md", names)


def run(code: Code, name: str, names: dict[str, object]) -> None:
    """Run a block so that a traceback shows its line in the page."""
    exec(compile("\n" * code.line + code.text, name, "exec"), names)  # noqa: S102


@pytest.mark.usefixtures("surroundings")
def test_the_services_can_be_used_as_they_are_opened(endpoint: Endpoint) -> None:
    [code] = [code for code in fenced(SERVICES, "python") if "# MinIO" in code.text]
    elsewhere = re.compile(r"endpoint=https?://[^&\"]+")
    assert len(elsewhere.findall(code.text)) == 3
    text = elsewhere.sub(f"endpoint={endpoint.url}", code.text)
    imported, *statements = ast.parse(text).body
    assert isinstance(imported, ast.Import)
    for statement in statements:
        assert isinstance(statement, ast.Expr)
        with eval(compile(ast.Expression(statement.value), "services.md", "eval")) as store:  # noqa: S307
            assert store.health_check().store.startswith(f"s3://{BUCKET}/")


@pytest.mark.thorough
@pytest.mark.usefixtures("surroundings")
def test_the_commands_run_in_order(tmp_path: Path) -> None:
    _ = (tmp_path / "video.bin").write_bytes(bytes(10_000_000))
    shell = [*fenced(README, "sh"), *fenced(COMMAND_LINE, "sh")]
    commands = [code.text for code in shell if "export BLOCKYARD_STORE" in code.text]
    assert len(commands) == 2
    assert commands
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        env=os.environ | {"PATH": search},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "back.bin").read_bytes() == bytes(10_000_000)
    assert "\n16\n" in run.stdout
    assert run.stdout.endswith("deleted 5 blocks\n")  # with the manifest, and a tombstone


@pytest.mark.thorough
def test_type_checkers_have_nothing_to_say(tmp_path: Path) -> None:
    example = "\n".join(code.text for code in fenced(ALL, "python"))
    secrets = 'reveal_type(blockyard.S3Config(bucket="b", secret_key="s").secret_key)'
    wrong = """
blockyard.S3Config(bucket="b", access_key="A", secret_key=5)
blockyard.open_store("s3://b", secret_key=5)
blockyard.open_store("s3://b", regoin="eu-west-1")
blockyard.open_store("s3://b", sign_payload="maybe")
"""
    _ = (tmp_path / "example.py").write_text(f"{example}\n{secrets}\n{wrong}\n")
    _ = (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    checker = Path(sys.executable).parent / "basedpyright"
    command = [checker, "-p", tmp_path, "--pythonpath", sys.executable]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert '"Secret"' in run.stdout
    assert "4 errors, 0 warnings" in run.stdout, run.stdout
    assert 'parameter "secret_key" of type "str | Secret"' in run.stdout
    assert 'parameter "secret_key" of type "str | Secret | None"' in run.stdout
    assert 'No parameter named "regoin"' in run.stdout
    assert 'parameter "sign_payload" of type' in run.stdout


def test_every_command_is_named() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert "put" in names
    assert [name for name in names if f"blockyard {name}" not in COMMAND_LINE] == []


def test_the_table_of_exit_codes_is_that_of_the_help() -> None:
    helped = re.findall(r"^ +(\d+)  (.+)$", exits.HELP, re.MULTILINE)
    assert table(COMMAND_LINE, "exit code") == [list(row) for row in helped]


def test_every_method_of_a_store_is_used() -> None:
    code = "\n".join(code.text for code in fenced(ALL + page("docs/cache.md"), "python"))
    members = vars(blockyard.BlockStore).items()
    used = {
        name: f".{name}" if isinstance(member, property) else f".{name}("
        for name, member in members
        if not name.startswith("_")
    }
    assert len(used) > 20
    assert [name for name, use in used.items() if use not in code] == []


def test_what_waits_in_asyncio_is_used_there() -> None:
    code = "\n".join(code.text for code in fenced(ALL, "python") if "async def" in code.text)
    assert "async for block in store.iter_blocks(" in code
    assert "async for piece in store.iter_content(" in code
    assert "async with await store.open_content(" in code


def test_the_yaml_file_is_a_configuration(tmp_path: Path) -> None:
    [code] = fenced(CONFIGURATION, "yaml")
    path = tmp_path / "store.yaml"
    _ = path.write_text(code.text)
    config = load_config(path, {}, {})
    assert config.s3 is not None
    assert config.s3.bucket == BUCKET
    assert config.s3.timeouts.deadline == 120
    assert config.file is not None


def test_the_table_of_settings_is_that_of_the_models() -> None:
    rows = table(CONFIGURATION, "setting, below `s3`")
    fields = dict(walk(S3Config))
    expected = {".".join(path): shown(fields[path]) for path in settings_below(S3Config)}
    assert {named(row[0])[0]: row[1].strip("`") for row in rows} == expected
    assert all(row[2] for row in rows)


def shown(setting: Setting) -> str:  # noqa: PLR0911 - one for each kind of default
    """A default as the page writes it."""
    match setting.default:
        case dataclasses.MISSING:
            return "required"
        case None:
            return "none"
        case bool() as default:
            return str(default).lower()
        case float() as default:
            return f"{default:g}"
        case int() as size if size >= MIB and size % MIB == 0:
            return f"{size // MIB}MiB"
        case Secret() as secret:
            return secret.reveal() or "empty"
        case other:
            return str(other) or "empty"


GIVEN = {
    "AWS_REGION": ("eu-central-1", "region"),
    "AWS_DEFAULT_REGION": ("eu-central-1", "region"),
    "AWS_ENDPOINT_URL_S3": ("http://rgw.example.com", "endpoint"),
    "AWS_ENDPOINT_URL": ("http://rgw.example.com", "endpoint"),
    "AWS_USE_FIPS_ENDPOINT": (True, "use_fips_endpoint"),
    "AWS_USE_DUALSTACK_ENDPOINT": (True, "use_dualstack_endpoint"),
    "BLOCKYARD_S3_REGION": ("eu-central-1", "region"),
}


@pytest.mark.parametrize("variable", GIVEN)
def test_a_variable_gives_its_setting(variable: str) -> None:
    value, setting = GIVEN[variable]
    config = load_config(f"s3://{BUCKET}", {}, {variable: str(value)})
    assert getattr(config.s3, setting) == value


def test_the_table_of_variables_names_those_that_are_read() -> None:
    variables = {name for row in table(CONFIGURATION, "variable") for name in named(row[0])}
    own = {name for name in variables if name.startswith("BLOCKYARD_S3_")}
    assert own
    paths = environment_layer(dict.fromkeys(own, "1")).keys()
    assert set(paths) <= set(settings_below(S3Config, ("s3",)))
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    others = {"BLOCKYARD_STORE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"}
    assert variables - own == (GIVEN.keys() - {"BLOCKYARD_S3_REGION"}) | keys | others


def test_the_table_of_errors_is_the_tree() -> None:
    rows = table(PAGES["docs/errors.md"], "error")
    assert sorted(named(row[0])[0] for row in rows) == sorted(kind.__name__ for kind in tree())
    for row in rows:
        kind = getattr(blockyard, named(row[0])[0])
        said = re.findall(r"also a `(\w+)`", row[1])
        own = [base.__name__ for base in kind.__bases__ if hasattr(builtins, base.__name__)]
        assert said == [name for name in own if name != "Exception"]


def tree() -> list[type[BlockStoreError]]:
    found: list[type[BlockStoreError]] = [BlockStoreError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == "blockyard.errors"]


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    text = prose(ALL)
    policy, settings = RetryPolicy(), S3Config(bucket=BUCKET)
    rate = retry._TOKENS_A_SECOND // retry._RETRY_COST
    assert policy.attempts == settings.max_attempts
    for fact in (
        f"up to {policy.attempts} tries",
        f"double from {policy.base:g} s up to {policy.cap:g} s",
        f"has never answered gets {policy.before_contact} tries",
        f"no more than {rate} retries a second",
        f"`connect` ({settings.timeouts.connect:g} s)",
        f"`no_progress` ({settings.timeouts.no_progress:g} s)",
        f"{settings.concurrency} requests are in flight",
        f"its pages ({SMALLEST_PAGE // 1024} KiB",
        f"A **block** is {blockyard.BLOCK_SIZE >> 20} MiB as a rule",
        f"up to {blockyard.MAX_BLOCK_SIZE >> 30} GiB",
    ):
        assert fact in text


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
    assert {named(row[0])[0] for row in table(README, "extra")} == set(extras)
    shell = "\n".join(code.text for code in fenced(README, "sh"))
    for asked in re.findall(r"pip install '\.\[(\w+)\]'", shell):
        assert asked in extras


def test_the_make_targets_are_there() -> None:
    shell = "\n".join(code.text for code in fenced(README, "sh"))
    asked = re.findall(r"^make (\S+)$", shell, re.MULTILINE)
    assert asked
    for target in asked:
        assert f"\n{target}:" in (REPOSITORY / "Makefile").read_text()


def test_what_boto3_users_are_led_to_is_there() -> None:
    text = PAGES["docs/coming-from-boto3.md"]
    calls = " ".join(name for row in table(text, "boto3") for name in named(row[1]))
    methods = set(re.findall(r"\b(\w+)\(", calls))
    assert len(methods) > 15
    there = set(dir(blockyard.BlockStore)) | set(blockyard.__all__)
    assert methods - there == set()
    settings = {path[-1] for path in settings_below(S3Config)}
    assert set(named(table(text, "boto3")[-1][1])) <= settings
    rows = table(text, "a `ClientError` whose code is")
    errors = {name for row in rows for name in named(row[1]) if name.endswith("Error")}
    assert {name for name in errors if not hasattr(blockyard, name)} == set()
