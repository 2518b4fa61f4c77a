"""What can be configured, and how it is checked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpConfig(_Model):
    """The connection pool and TLS."""

    max_connections: int = Field(default=200, ge=1)
    max_idle: int = Field(default=200, ge=0)
    keep_alive: float = Field(default=30.0, ge=0)
    ca_bundle: str = ""
    client_cert: str = ""
    client_key: str = ""
    proxy: str = ""


class TimeoutConfig(_Model):
    """Seconds. `no_progress` is the longest wait for the next byte; `deadline` limits a call."""

    connect: float = Field(default=5.0, gt=0)
    no_progress: float = Field(default=30.0, gt=0)
    deadline: float | None = Field(default=None, gt=0)


class S3Config(_Model):
    """One bucket, or the keys below `key_prefix` in it."""

    bucket: str
    region: str = "us-east-1"
    endpoint: str = ""
    key_prefix: str = ""
    force_path_style: bool = False
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    session_token: SecretStr = SecretStr("")
    max_retries: int = Field(default=10, ge=0)
    sign_payload: Literal["auto", "always", "never"] = "auto"
    concurrency: int = Field(default=32, ge=1)
    timeouts: TimeoutConfig = TimeoutConfig()
    http: HttpConfig = HttpConfig()
