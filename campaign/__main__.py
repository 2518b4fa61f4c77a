"""`python -m campaign`: blockyard under faults. See docs/RELIABILITY.md."""

from __future__ import annotations

import argparse
import secrets
import sys

from campaign import report
from campaign.outages import run_outages
from campaign.run import SERVERS, run_campaign


def main() -> int:
    """Run what the command line asks for; 0 when no promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    _ = parser.add_argument(
        "--server",
        choices=SERVERS,
        default="memory",
        help="what stands behind the faults: a bucket in memory (the default), or a real server",
    )
    _ = parser.add_argument("--operations", type=int, default=100_000, help="how many in all")
    _ = parser.add_argument("--seed", type=int, help="repeats a run; by default another each time")
    _ = parser.add_argument(
        "--outages",
        type=float,
        metavar="SECONDS",
        help="run this long on Ceph, whose OSD and gateway are killed and started again",
    )
    _ = parser.add_argument(
        "--only", nargs="+", default=[], metavar="JOB", help="these jobs alone, by name"
    )
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    if options.outages:
        result = run_outages(seed, options.outages)
    else:
        result = run_campaign(seed, options.operations, options.server, options.only)
    print(report.text(result))
    return 1 if result.tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
