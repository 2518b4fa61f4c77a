"""The limit: wrk, an HTTP load generator in C with one thread, on the same requests.

It signs nothing, checks nothing, and throws away what it reads. https://github.com/wg/wrk
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
from pathlib import Path

from bench import data
from bench.driving import Sample
from bench.workloads import RANGED_BLOCK, Workload
from servers.endpoint import Endpoint
from servers.process import require_programs

_REQUESTS = 1024
_SCRIPT = """\
local requests, at = {{}}, 0
init = function()
    local body = nil
    if {has_body} then
        local file = io.open("{folder}/body", "rb")
        body = file:read("*a")
        file:close()
    end
    for line in io.lines("{folder}/requests") do
        local path, range = line:match("^(%S+) (%S*)$")
        local headers = {{}}
        if range ~= "" then headers["Range"] = range end
        requests[#requests + 1] = wrk.format("{method}", path, headers, body)
    end
end
request = function()
    at = at % #requests + 1
    return requests[at]
end
done = function(summary)
    local failed = 0
    for _, count in pairs(summary.errors) do failed = failed + count end
    io.write(string.format('\\n{{"operations": %d, "microseconds": %d, "failed": %d}}\\n',
        summary.requests, summary.duration, failed))
end
"""


def measure(workload: Workload, endpoint: Endpoint, seconds: float) -> Sample:
    """wrk for about `seconds` (whole ones), with the workload's requests in flight."""
    require_programs("wrk")
    with tempfile.TemporaryDirectory(prefix="blockyard-wrk-") as name:
        script = _write_script(Path(name), workload)
        command = [
            "wrk",
            "--threads=1",
            f"--connections={workload.in_flight}",
            f"--duration={max(1, round(seconds))}s",
            f"--script={script}",
            endpoint.url,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    told = json.loads(output.rpartition("\n{")[2].join(("{", ""))) if "\n{" in output else {}
    if process.returncode or not told or told["failed"] or not told["operations"]:
        raise RuntimeError(f"wrk failed on {workload.name}:\n{output}")
    cpu = usage.ru_utime + usage.ru_stime
    return Sample(told["operations"], told["microseconds"] / 1e6, cpu)


def _write_script(folder: Path, workload: Workload) -> Path:
    method = "PUT" if workload.operation == "write" else "GET"
    _ = (folder / "requests").write_text("\n".join(_lines(workload)) + "\n")
    if method == "PUT":
        _ = (folder / "body").write_bytes(data.body(workload.size))
    script = folder / "script.lua"
    has_body = "true" if method == "PUT" else "false"
    _ = script.write_text(_SCRIPT.format(folder=folder, method=method, has_body=has_body))
    return script


def _lines(workload: Workload) -> list[str]:
    """`PATH RANGE` for each request; the range is empty for a whole object."""
    chance = random.Random(workload.name)
    size = workload.size
    root = f"/{data.PLAIN}"
    match workload.operation:
        case "write":
            keys = data.written_keys(size)
            # Each request is kept formatted, with its body.
            return [f"{root}/{key} " for key in keys[:4]]
        case "read":
            keys = data.read_keys(size)
            return [f"{root}/{key} " for key in chance.choices(keys, k=_REQUESTS)]
        case "range":
            keys = chance.choices(data.read_keys(RANGED_BLOCK), k=_REQUESTS)
            step = size if workload.aligned else 1
            firsts = [chance.randrange((RANGED_BLOCK - size) // step + 1) * step for _ in keys]
            return [
                f"{root}/{key} bytes={first}-{first + size - 1}"
                for key, first in zip(keys, firsts, strict=True)
            ]
        case other:
            raise ValueError(f"wrk has no part in {other}")
