"""`python -m bench run`, `path` and `ecosystem` measure and print; `report` writes the page."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from bench import report, run
from bench.ecosystem import comparing as ecosystem
from bench.path import comparing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="measure, print the tables, save the results")
    _ = running.add_argument("--quick", action="store_true", help="the promised ratios alone")
    _ = running.add_argument("--tiny", action="store_true", help="a moment each: to try it out")
    _ = running.add_argument("--only", default="", help="workloads whose name holds this")
    _ = running.add_argument("--save", default="", help="the file for the results (JSON)")
    over = commands.add_parser("path", help="measure over an emulated network path (Linux, root)")
    _ = over.add_argument("--quick", action="store_true", help="one round")
    _ = over.add_argument("--congestion", default="cubic", help="TCP's congestion control")
    _ = over.add_argument("--save", default="", help="the file for the results (JSON)")
    within = commands.add_parser("ecosystem", help="measure what Zarr and fsspec do with blockyard")
    _ = within.add_argument("--quick", action="store_true", help="two rounds, and a small file")
    _ = within.add_argument(
        "--gib", type=int, default=0, help="the size of the file that is written"
    )
    _ = within.add_argument("--save", default="", help="the file for the results (JSON)")
    _ = commands.add_parser("report", help="write docs/BENCHMARKS.md from the saved results")
    chosen = parser.parse_args()
    if chosen.command == "report":
        return report.main()
    if chosen.command == "ecosystem":
        wanted = ecosystem.QUICK if chosen.quick else ecosystem.FULL
        if chosen.gib:
            wanted = replace(wanted, upload_bytes=chosen.gib * ecosystem.GIB)
        return run.in_the_ecosystem(wanted, chosen.save)
    if chosen.command == "path":
        effort = comparing.QUICK if chosen.quick else comparing.FULL
        return run.over_a_path(effort, chosen.congestion, chosen.save)
    scale = run.TINY if chosen.tiny else run.QUICK if chosen.quick else run.FULL
    return run.main(scale, chosen.only, chosen.save)


if __name__ == "__main__":
    sys.exit(main())
