"""`python -m blockyard_faults.campaign`: blockyard under faults. See docs/RELIABILITY.md."""

from __future__ import annotations

import argparse
import secrets
import sys
from importlib.util import find_spec

from blockyard_faults.campaign.run import SERVERS, run_campaign, text


def main() -> int:
    """Run what the command line asks for; 0 when no promise was broken."""
    program = "python -m blockyard_faults.campaign"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
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
    if (options.outages or options.server != "memory") and find_spec("servers") is None:
        parser.error("real servers are started in a checkout of the repository alone")
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    if options.outages:
        from blockyard_faults.campaign.outages import run_outages  # noqa: PLC0415  # needs `servers`

        result = run_outages(seed, options.outages)
    else:
        result = run_campaign(seed, options.operations, options.server, options.only)
    print(text(result))
    return 1 if result.tally.broken else 0


if __name__ == "__main__":
    sys.exit(main())
