"""`python -m fuzz TARGET [libFuzzer options]`: fuzz one target until it fails or its time is up.

Needs atheris, which comes with `make fuzz`. Its options: https://llvm.org/docs/LibFuzzer.html
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # pyright: ignore # it is not installed for development


def main() -> None:
    """Run the target that the first argument names, its seeds as the corpus to begin with."""
    with atheris.instrument_imports():  # pyright: ignore
        from fuzz.targets import TARGETS  # noqa: PLC0415 - what is imported here is watched
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[name].seeds):
            _ = (Path(corpus) / str(number)).write_bytes(seed)
        arguments = [sys.argv[0], corpus, *sys.argv[2:]]
        atheris.Setup(arguments, TARGETS[name].run)  # pyright: ignore
        atheris.Fuzz()  # pyright: ignore


if __name__ == "__main__":
    main()
