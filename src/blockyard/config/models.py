"""Every setting: its name, what it may be, and its default.

The descriptions are what errors quote as the expected form. Constructing a model checks the
values given and raises `ConfigError` for all that are wrong; it does not look at the
environment (`loading.py` does).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from blockyard.config import checks
from blockyard.config.problems import config_error
from blockyard.model import DEFAULT_IN_FLIGHT, MAX_CONCURRENCY, MAX_SECONDS, MIB

MAX_IN_FLIGHT = MIB * MIB
DEFAULT_CONCURRENCY = 32
"""Operations that a many-at-once call keeps in flight, unless configured."""

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)]
ReadableFile = Annotated[str, AfterValidator(checks.check_file)]


if TYPE_CHECKING:

    class Secret:
        """A secret as type checkers see it: given as text or as `SecretStr`, read as that."""

        def __get__(self, instance: object, owner: type) -> SecretStr: ...
        def __set__(self, instance: object, value: str | SecretStr) -> None: ...

else:
    Secret = SecretStr


_NO_SECRET: Any = SecretStr("")


def _revealed(check: Callable[[str], str]) -> AfterValidator:
    """A check on text, for a field that holds a secret."""

    def check_secret(value: SecretStr) -> SecretStr:
        return SecretStr(check(value.get_secret_value()))

    return AfterValidator(check_secret)


class Section(BaseModel):
    """What all sections share: closed to unknown names, never changed, one kind of error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    yaml_path: ClassVar[tuple[str, ...]]

    def __init__(self, **settings: Any) -> None:
        error = None
        try:
            super().__init__(**settings)
        except ValidationError as invalid:
            error = config_error(invalid, type(self), self.yaml_path)
        if error:  # raised outside the handler: pydantic's error holds the values, secrets too
            raise error

    # pydantic's own mark for an __init__ that only validates: without it each inner section
    # would be constructed, and refused, on its own, and its problems come apart from the rest.
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what pydantic would take for something else: True for 1, bytes for text."""
        if isinstance(value, str):
            return checks.check_one_line(value)
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bytes) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"of type {type(value).__name__}")
        if kind is int and hasattr(type(value), "__index__"):  # a whole number of another library
            return index(value)  # pyright: ignore[reportArgumentType] # it has __index__
        return value


class HttpConfig(Section):
    """The connection pool, TLS and the proxy."""

    yaml_path = ("block_store", "s3", "http")

    max_connections: Count = Field(
        default=200, description="a whole number from 1 to 10000 (the most connections to one host)"
    )
    max_idle: int = Field(
        default=200,
        ge=0,
        le=MAX_CONCURRENCY,
        description="a whole number from 0 to 10000 (the most idle connections kept)",
    )
    keep_alive: float = Field(
        default=30.0,
        ge=0,
        le=MAX_SECONDS,
        allow_inf_nan=False,
        description="seconds from 0 to a week (how long an idle connection is kept)",
    )
    ca_bundle: ReadableFile = Field(
        default="", description="the path of a PEM file with the trusted certificates"
    )
    client_cert: ReadableFile = Field(
        default="", description="the path of a PEM file with the client's certificate"
    )
    client_key: ReadableFile = Field(
        default="", description="the path of a PEM file with the key of client_cert"
    )
    proxy: Annotated[Secret, _revealed(checks.check_proxy)] = Field(
        default=_NO_SECRET, description="http://[USER:PASSWORD@]HOST[:PORT]"
    )

    @field_validator("client_key")
    @classmethod
    def _with_certificate(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("client_cert") == "":
            raise ValueError("client_cert is missing")
        return value


class TimeoutConfig(Section):
    """Seconds, all of them."""

    yaml_path = ("block_store", "s3", "timeouts")

    connect: Seconds = Field(
        default=5.0,
        description="seconds, more than 0 and up to a week (the longest wait for a connection)",
    )
    no_progress: Seconds = Field(
        default=30.0,
        description="seconds, more than 0 and up to a week (the longest wait for the next byte)",
    )
    deadline: Seconds | None = Field(
        default=None,
        description="seconds, more than 0 and up to a week (the longest that one call may take)",
    )
    unacknowledged: Seconds | None = Field(
        default=None,
        description="seconds, more than 0 and up to a week (the longest that sent bytes may go "
        "unacknowledged: TCP_USER_TIMEOUT)",
    )


class IntegrityConfig(Section):
    """How far reads are held to the checksums that blocks are stored with."""

    yaml_path = ("block_store", "s3", "integrity")

    verify_ranges: Literal["widen", "covered", "off"] = Field(
        default="widen",
        description="widen (ranged reads take whole pages, and all of them is verified), covered "
        "(the pages that the range covers are verified) or off",
    )


class S3Config(Section):
    """One bucket, or the keys below `key_prefix` in it.

    Leave `access_key` and `secret_key` empty to have the AWS default chain find credentials.
    """

    yaml_path = ("block_store", "s3")

    region: Annotated[str, AfterValidator(checks.check_region)] = Field(
        default="us-east-1", description="a region such as eu-central-1"
    )
    endpoint: Annotated[str, AfterValidator(checks.check_endpoint)] = Field(
        default="",
        description="http://HOST[:PORT][/PATH], https://HOST[:PORT][/PATH], or without https://; "
        "empty for AWS",
    )
    bucket: str = Field(description="the name of a bucket")
    key_prefix: Annotated[str, AfterValidator(checks.check_key_prefix)] = Field(
        default="",
        description="the folder in the bucket that all keys are below; it gets a / at its end",
    )
    force_path_style: bool = Field(
        default=False,
        description="true (the bucket stands in the path) or false (in the host name)",
    )
    use_fips_endpoint: bool = Field(
        default=False,
        description="true (AWS's endpoints with FIPS 140 validated cryptography) or false",
    )
    use_dualstack_endpoint: bool = Field(
        default=False, description="true (AWS's endpoints that have IPv6 as well) or false"
    )
    access_key: Annotated[str, AfterValidator(checks.check_access_key)] = Field(
        default="", description="an access key id"
    )
    secret_key: Annotated[Secret, _revealed(checks.check_secret)] = Field(
        default=_NO_SECRET, description="the secret of access_key", validate_default=True
    )
    session_token: Annotated[Secret, _revealed(checks.check_token)] = Field(
        default=_NO_SECRET, description="the session token that came with access_key"
    )
    anonymous: bool = Field(
        default=False, description="true (requests go unsigned, as to a public bucket) or false"
    )
    max_retries: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="a whole number from 0 to 1000 (the most tries of one request, the first "
        "included: 0 and 1 both mean a single one)",
    )
    sign_payload: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="auto (bodies are signed unless TLS guards them), always or never",
    )
    write_proof: Literal["etag", "head"] = Field(
        default="etag",
        description="etag (a block is stored when the reply to its write holds an ETag) or head "
        "(for a service that sends none: each block is looked up after its write)",
    )
    concurrency: Count = Field(
        default=DEFAULT_CONCURRENCY,
        description="a whole number from 1 to 10000 (the most requests in flight at once)",
    )
    in_flight: Annotated[int, BeforeValidator(checks.check_size)] = Field(
        default=DEFAULT_IN_FLIGHT,
        ge=MIB,
        le=MAX_IN_FLIGHT,
        description="a size from 1MiB to 1TiB such as 64MiB (the bytes of blocks that one call "
        "holds in memory, results and buffers of the caller's excepted)",
    )
    hedge_reads: bool = Field(
        default=False,
        description="true (a read whose first byte is late is asked for again on another "
        "connection, at most one in twenty) or false",
    )
    integrity: IntegrityConfig = IntegrityConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    http: HttpConfig = HttpConfig()

    # A field that is held against others stands after them: pydantic checks them in this order.

    @field_validator("bucket")
    @classmethod
    def _bucket_name(cls, value: str, info: ValidationInfo) -> str:
        endpoint = info.data.get("endpoint")
        # an endpoint that was refused is reported by itself: the wider rules will do
        return checks.check_bucket(value, "?" if endpoint is None else endpoint)

    @field_validator("use_fips_endpoint", "use_dualstack_endpoint")
    @classmethod
    def _of_aws(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("endpoint"):
            raise ValueError("endpoint is given as well, and this chooses one of AWS's")
        fips_in_china = info.field_name == "use_fips_endpoint" and info.data.get("region", "")
        if value and fips_in_china and fips_in_china.startswith("cn-"):
            raise ValueError("the regions of China have no such endpoints")
        return value

    @field_validator("secret_key")
    @classmethod
    def _with_access_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        access_key = info.data.get("access_key")
        if access_key is not None and bool(access_key) != bool(value.get_secret_value()):
            raise ValueError("access_key and secret_key go together, and one is missing")
        return value

    @field_validator("session_token")
    @classmethod
    def _with_keys(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        if value.get_secret_value() and info.data.get("access_key") == "":
            raise ValueError("access_key and secret_key are missing")
        return value

    @field_validator("anonymous")
    @classmethod
    def _without_keys(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("access_key"):
            raise ValueError("access_key is given as well")
        return value


def _folder(value: object) -> object:
    return checks.check_folder(str(value)) if isinstance(value, str | PurePath) else value


class FileConfig(Section):
    """A folder of this machine."""

    yaml_path = ("block_store", "file")

    path: Annotated[Path, BeforeValidator(_folder)] = Field(description="the path of a folder")


class StoreConfig(Section):
    """A store of one `type`; the sections of other types are checked, and not used."""

    yaml_path = ("block_store",)

    type: Literal["s3", "file", "memory"] = Field(default="s3", description="s3, file or memory")
    s3: S3Config | None = Field(default=None, validate_default=True)
    file: FileConfig | None = Field(default=None, validate_default=True)

    @field_validator("s3", "file")
    @classmethod
    def _not_missing(cls, value: Section | None, info: ValidationInfo) -> Section | None:
        if value is None and info.data.get("type") == info.field_name:
            raise ValueError(f"type is {info.field_name}")
        return value

    @property
    def selected(self) -> S3Config | FileConfig | None:
        """The section of this store's `type`; None for a memory store, which has no settings."""
        return {"s3": self.s3, "file": self.file, "memory": None}[self.type]
