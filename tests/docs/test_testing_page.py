"""The page on testing one's own endpoint: its code runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from servers.endpoint import Endpoint

PAGE = Path(__file__).parents[2] / "docs" / "testing-your-endpoint.md"


def test_the_code_of_the_page_runs(
    tmp_path: Path, moto_endpoint: Endpoint, cleared_bucket: str
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    _ = (tmp_path / "test_my_endpoint.py").write_text("\n".join(blocks))
    environment = os.environ | {
        "MY_ENDPOINT": moto_endpoint.url,
        "MY_BUCKET": cleared_bucket,
        "AWS_ACCESS_KEY_ID": moto_endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": moto_endpoint.secret_key,
    }
    some = "stat_describes or lost or late"  # the whole suite, with its retries, takes minutes
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-k", some]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
