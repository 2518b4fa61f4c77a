"""Processes with one stage, and the settings of a store in write-back mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cache.staging import Process, Service


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def one(tmp_path: Path, service: Service) -> Process:
    return Process(tmp_path / "cache", service)


@pytest.fixture
def other(one: Process, service: Service) -> Process:
    return Process(one.root, service)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    disk = {"path": str(tmp_path / "cache"), "size": "64MiB"}
    return {"cache": {"memory": 0, "mode": "write_back", "disk": disk}}
