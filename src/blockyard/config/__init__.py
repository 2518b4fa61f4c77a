"""What can be configured. How it is declared: `sections.py`. Where it comes from: `loading.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from blockyard.config import values
from blockyard.config.cache import CacheConfig
from blockyard.config.sections import Secret, Section, seconds, section, setting, texts, whole
from blockyard.config.values import flag, one_of, path_text, size, within
from blockyard.keys import folder_prefix
from blockyard.model import DEFAULT_IN_FLIGHT, MAX_CONCURRENCY, MIB
from blockyard.put_options import Acl, Encryption
from blockyard.s3.endpoints import bucket_problem, can_be_overheard, checked_region, normal_endpoint

SignPayload = Literal["auto", "always", "never"]
VerifyRanges = Literal["widen", "covered", "off"]
WriteProof = Literal["etag", "head"]

DEFAULT_CONCURRENCY = 32
"""Operations that a bulk call keeps in flight, unless configured."""

if TYPE_CHECKING:

    class SecretField:
        """A secret as type checkers see it: given as text or as `Secret`, read as that."""

        def __get__(self, instance: object, owner: type) -> Secret: ...
        def __set__(self, instance: object, value: str | Secret) -> None: ...

else:
    SecretField = Secret


class HttpConfig(Section, yaml_path="block_store.s3.http"):
    """The connection pool, TLS and the proxy."""

    max_connections: int = whole(
        1, MAX_CONCURRENCY, "the most connections to one host", default=200
    )
    max_idle: int = whole(0, MAX_CONCURRENCY, "the most idle connections kept", default=200)
    keep_alive: float = seconds("how long an idle connection is kept", default=30.0, zero=True)
    ca_bundle: str = setting(
        "the path of a PEM file with the trusted certificates, or of a folder of such files",
        check=values.certificates,
        default="",
    )
    client_cert: str = setting(
        "the path of a PEM file with the client's certificate",
        check=values.readable_file,
        default="",
    )
    client_key: str = setting(
        "the path of a PEM file with the key of client_cert", check=values.readable_file, default=""
    )
    proxy: SecretField = setting(
        "http://[USER:PASSWORD@]HOST[:PORT]", check=values.proxy, default=Secret()
    )

    def conflicts(self, valid: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if valid.get("client_key") and valid.get("client_cert") == "":
            yield "client_key", "client_cert is missing"


class TimeoutConfig(Section, yaml_path="block_store.s3.timeouts"):
    """Seconds, all of them."""

    connect: float = seconds("the longest wait for a connection", default=5.0)
    no_progress: float = seconds("the longest wait for the next byte", default=30.0)
    deadline: float | None = seconds("the longest that one call may take", default=None)
    unacknowledged: float | None = seconds(
        "the longest that sent bytes may go unacknowledged: TCP_USER_TIMEOUT", default=None
    )


class IntegrityConfig(Section, yaml_path="block_store.s3.integrity"):
    """How far reads are verified against the checksums that blocks are stored with."""

    verify_ranges: VerifyRanges = setting(
        "widen (ranged reads take whole pages, and all of them is verified), covered (the pages "
        "that the range covers are verified) or off",
        one_of(*get_args(VerifyRanges)),
        default="widen",
    )


class PutConfig(Section, yaml_path="block_store.s3.put"):
    """How objects are stored, unless a write's own `PutOptions` say otherwise."""

    storage_class: str = setting(
        "a storage class such as STANDARD_IA", check=values.storage_class, default=""
    )
    encryption: Literal["", Encryption] = setting(
        "AES256 (by keys of the service), aws:kms or aws:kms:dsse (by a key in KMS)",
        one_of("", *get_args(Encryption)),
        default="",
    )
    kms_key_id: str = setting("the id or ARN of a key in KMS", check=values.header, default="")
    kms_context: Mapping[str, str] | None = texts(
        "the encryption context that KMS binds the key of an object to",
        values.put_option("kms_context"),
        default=None,
    )
    customer_key: SecretField = setting(
        "the base64 of a key of 32 bytes, which every request about an object then needs",
        check=values.customer_key,
        default=Secret(),
    )
    acl: Literal["", Acl] = setting(
        f"a canned ACL: {', '.join(get_args(Acl))}", one_of("", *get_args(Acl)), default=""
    )
    content_type: str = setting(
        "a media type such as application/octet-stream", check=values.header, default=""
    )
    cache_control: str = setting(
        "what Cache-Control says, such as max-age=3600", check=values.header, default=""
    )
    metadata: Mapping[str, str] | None = texts(
        "your own names and values, which objects are stored with",
        values.put_option("metadata"),
        default=None,
    )
    tags: Mapping[str, str] | None = texts(
        "at most ten tags, which objects are stored with",
        values.put_option("tags"),
        default=None,
    )

    def conflicts(self, valid: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        encryption = valid.get("encryption")
        for name in ("kms_key_id", "kms_context"):
            if valid.get(name) and encryption in {"", "AES256"}:
                yield name, "encryption is not aws:kms or aws:kms:dsse"
        if valid.get("customer_key") and encryption:
            yield "customer_key", "encryption is given as well"


class S3Config(Section, yaml_path="block_store.s3"):
    """One bucket, or the keys below `key_prefix` in it.

    Leave `access_key` and `secret_key` empty to have the AWS default chain find credentials.
    """

    region: str = setting(
        "a region such as eu-central-1", check=checked_region, default="us-east-1"
    )
    endpoint: str = setting(
        "http://HOST[:PORT][/PATH], https://HOST[:PORT][/PATH], or without https://; empty for AWS",
        check=normal_endpoint,
        default="",
    )
    bucket: str = setting("the name of a bucket")
    key_prefix: str = setting(
        "the folder in the bucket that all keys are below; it gets a / at its end",
        check=folder_prefix,
        default="",
    )
    force_path_style: bool = setting(
        "true (the bucket stands in the path) or false (in the host name)", flag, default=False
    )
    use_fips_endpoint: bool = setting(
        "true (AWS's endpoints with FIPS 140 validated cryptography) or false", flag, default=False
    )
    use_dualstack_endpoint: bool = setting(
        "true (AWS's endpoints that have IPv6 as well) or false", flag, default=False
    )
    access_key: str = setting("an access key id", check=values.access_key, private=True, default="")
    secret_key: SecretField = setting(
        "the secret of access_key", check=values.secret_key, default=Secret()
    )
    session_token: SecretField = setting(
        "the session token that came with access_key", check=values.token, default=Secret()
    )
    anonymous: bool = setting(
        "true (requests go unsigned, as to a public bucket) or false", flag, default=False
    )
    profile: str = setting(
        "the name of a profile in AWS's shared files, which credentials are to come from",
        check=values.header,
        default="",
    )
    max_attempts: int = whole(
        1, 1000, "the most tries of one request, the first included", default=10
    )
    sign_payload: SignPayload = setting(
        "auto (bodies are signed unless TLS guards them), always or never",
        one_of(*get_args(SignPayload)),
        default="auto",
    )
    write_proof: WriteProof = setting(
        "etag (a block is stored when the reply to its write holds an ETag) or head (for a service "
        "that sends none: each block is looked up after its write)",
        one_of(*get_args(WriteProof)),
        default="etag",
    )
    concurrency: int = whole(
        1, MAX_CONCURRENCY, "the most requests in flight at once", default=DEFAULT_CONCURRENCY
    )
    in_flight: int = setting(
        "a size from 1MiB to 1TiB such as 64MiB (the bytes of blocks that one call holds in "
        "memory, results and buffers of the caller's excepted)",
        within(MIB, MIB * MIB, size),
        default=DEFAULT_IN_FLIGHT,
    )
    request_payer: bool = setting(
        "true (whoever sends a request pays for it, as such buckets want it) or false",
        flag,
        default=False,
    )
    expected_bucket_owner: str = setting(
        "the id of the account that has to own the bucket, of 12 digits",
        check=values.owner,
        default="",
    )
    hedge_reads: bool = setting(
        "true (a read whose first byte is late is requested again on another connection, at most "
        "one in twenty) or false",
        flag,
        default=False,
    )
    put: PutConfig = section(PutConfig, default=PutConfig())
    integrity: IntegrityConfig = section(IntegrityConfig, default=IntegrityConfig())
    timeouts: TimeoutConfig = section(TimeoutConfig, default=TimeoutConfig())
    http: HttpConfig = section(HttpConfig, default=HttpConfig())

    def conflicts(self, valid: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        endpoint, access_key = valid.get("endpoint"), valid.get("access_key")
        # for an invalid endpoint the wider rules will do
        anywhere = "?" if endpoint is None else endpoint
        if "bucket" in valid and (problem := bucket_problem(valid["bucket"], anywhere)):
            yield "bucket", problem
        for name in ("use_fips_endpoint", "use_dualstack_endpoint"):
            if valid.get(name) and endpoint:
                yield name, "endpoint is given as well, and this chooses one of AWS's"
        if valid.get("use_fips_endpoint") and valid.get("region", "").startswith("cn-"):
            yield "use_fips_endpoint", "the regions of China have no such endpoints"
        if access_key is not None and bool(access_key) != bool(valid.get("secret_key", access_key)):
            yield "secret_key", "access_key and secret_key go together, and one is missing"
        if access_key and values.swapped(access_key, valid.get("secret_key", Secret()).reveal()):
            yield "secret_key", "it looks like an access key id, unlike access_key: swapped?"
        if access_key == "" and valid.get("session_token"):
            yield "session_token", "access_key and secret_key are missing"
        own_key = getattr(valid.get("put"), "customer_key", None)
        if own_key and endpoint is not None and can_be_overheard(endpoint):
            yield "put", "customer_key would be sent unencrypted to an http:// endpoint"
        if access_key and valid.get("anonymous"):
            yield "anonymous", "access_key is given as well"
        if valid.get("profile") and (access_key or valid.get("anonymous")):
            yield "profile", f"{'access_key' if access_key else 'anonymous'} is given as well"


class FileConfig(Section, yaml_path="block_store.file"):
    """A folder of this machine."""

    path: Path = setting("the path of a folder", path_text, values.folder)


class StoreConfig(Section, yaml_path="block_store"):
    """A store of one `type`; the sections of other types are checked, and not used."""

    type: Literal["s3", "file", "memory"] = setting(
        "s3, file or memory", one_of("s3", "file", "memory"), default="s3"
    )
    s3: S3Config | None = section(S3Config, default=None)
    file: FileConfig | None = section(FileConfig, default=None)
    cache: CacheConfig | None = section(CacheConfig, default=None)

    def conflicts(self, valid: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for kind in ("s3", "file"):
            if valid.get("type") == kind and valid.get(kind, ...) is None:
                yield kind, f"type is {kind}"
        cache: object = valid.get("cache")
        if valid.get("type") == "memory" and cache and getattr(cache, "disk", None) is not None:
            yield "cache", "disk: the blocks of a memory store are gone with its process"

    @property
    def selected(self) -> S3Config | FileConfig | None:
        """The section of this store's `type`; None for a memory store, which has no settings."""
        return {"s3": self.s3, "file": self.file, "memory": None}[self.type]


class Settings(TypedDict, total=False):
    """The keyword arguments of `open_store`: each setting by its own name, and sections whole.

    None and an empty text are the same as leaving a setting out.
    """

    region: str | None
    endpoint: str | None
    bucket: str | None
    key_prefix: str | None
    force_path_style: bool | None
    use_fips_endpoint: bool | None
    use_dualstack_endpoint: bool | None
    access_key: str | None
    secret_key: str | Secret | None
    session_token: str | Secret | None
    anonymous: bool | None
    profile: str | None
    max_attempts: int | None
    sign_payload: SignPayload | None
    write_proof: WriteProof | None
    concurrency: int | None
    in_flight: int | str | None
    hedge_reads: bool | None
    verify_ranges: VerifyRanges | None
    connect: float | None
    no_progress: float | None
    deadline: float | None
    unacknowledged: float | None
    max_connections: int | None
    max_idle: int | None
    keep_alive: float | None
    ca_bundle: str | None
    client_cert: str | None
    client_key: str | None
    proxy: str | Secret | None
    request_payer: bool | None
    expected_bucket_owner: str | None
    storage_class: str | None
    encryption: Literal["", Encryption] | None
    kms_key_id: str | None
    kms_context: Mapping[str, str] | None
    customer_key: str | Secret | None
    acl: Literal["", Acl] | None
    content_type: str | None
    cache_control: str | None
    metadata: Mapping[str, str] | None
    tags: Mapping[str, str] | None
    put: PutConfig | Mapping[str, Any] | None
    integrity: IntegrityConfig | Mapping[str, Any] | None
    timeouts: TimeoutConfig | Mapping[str, Any] | None
    http: HttpConfig | Mapping[str, Any] | None
    path: str | os.PathLike[str] | None
    cache: CacheConfig | Mapping[str, Any] | None
