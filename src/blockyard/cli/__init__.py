"""The command line. `main` is what the `blockyard` script calls."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # There is nothing to tidy up yet, and a traceback through imports tells nobody anything.
        _ = signal.signal(signal.SIGINT, signal.SIG_DFL)
    for needed in ("typer", "rich"):
        if find_spec(needed) is None:
            sys.exit(f"blockyard: the command line needs {needed}: pip install 'blockyard[cli]'")
    from blockyard.cli import process  # noqa: PLC0415 - they need what was looked for
    from blockyard.cli.app import app  # noqa: PLC0415
    from blockyard.cli.exits import code_of  # noqa: PLC0415

    process.prepare_streams()
    process.install_signal_handlers()
    sys.exit(code_of(lambda: app(prog_name="blockyard")))
