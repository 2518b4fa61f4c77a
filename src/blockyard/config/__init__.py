"""What can be configured, how it is checked, and where it may come from.

The strongest first; each fills the gaps that those before it leave:

1. keyword arguments of `open_store` and `open_async_store`;
2. the source given to them (a URL, a YAML file), or the one that `BLOCKYARD_STORE` names;
3. `BLOCKYARD_S3_BUCKET`, `BLOCKYARD_S3_TIMEOUTS_CONNECT` and so on, one for each setting;
4. AWS's variables: `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_S3`,
   `AWS_ENDPOINT_URL`, `AWS_CA_BUNDLE`;
5. the defaults in `models.py`.

An empty text is the same as leaving a setting out. Settings that belong together (the keys, the
session token and `anonymous`; the client certificate and its key) are all taken from the first
place that has one of them. A `StoreConfig` made by the program is complete: the environment
adds nothing to it but, where it has no keys, AWS's credentials.

Every error is a `ConfigError` that lists all the problems found, each with its setting's path and
where its value came from: the line of a file, a variable, an argument.
"""

from __future__ import annotations

from blockyard.config.fields import Secret
from blockyard.config.loading import Source, load_config
from blockyard.config.models import (
    DEFAULT_CONCURRENCY,
    FileConfig,
    HttpConfig,
    IntegrityConfig,
    S3Config,
    Settings,
    StoreConfig,
    TimeoutConfig,
)

__all__ = [
    "DEFAULT_CONCURRENCY",
    "FileConfig",
    "HttpConfig",
    "IntegrityConfig",
    "S3Config",
    "Secret",
    "Settings",
    "Source",
    "StoreConfig",
    "TimeoutConfig",
    "load_config",
]
