"""One server process: started, waited for, killed or stopped by its own pid.

Every process leads a session of its own, so that a Ctrl-C at the terminal reaches it only
through its owner and that what it forks can be told from everything else on the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from servers.procfs import exposed_addresses, living_members

_TETHER = Path(__file__).with_name("tether.py")
_EMULATORS = Path(__file__).resolve().parent.parent / ".venv-emulators" / "bin"
_POLL = 0.02
_GRACE = 10.0
_LOG_TAIL = 2000


class ServerError(Exception):
    """A server could not be started, or is not safe to use; the message holds its last words."""


class Process:
    """A process that is ready once `ready()` holds, and writes to `folder/NAME.log`.

    Start it from a thread that outlives it: the kernel ends it with the thread that started it.
    `environment` is added to a bare one whose home is `folder`, so that no server reads or
    writes the user's settings.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        ready: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.name = name
        self._command = command
        self._folder = folder
        self._ready = ready
        self._environment = _bare_environment(folder) | dict(environment or {})
        self._timeout = timeout
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; raises `ServerError` when the process is not running."""
        if self._running is None:
            raise ServerError(f"{self.name} is not running")
        return self._running.pid

    def start(self) -> None:
        """Start the process and return once it is ready, and listens on loopback alone.

        Raises `ServerError` when it ends before that, or is not ready within the timeout.
        """
        tether = [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid())]
        with self._log_path.open("ab") as log:
            self._running = subprocess.Popen(
                [*tether, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the process to end, and kill it when it has not done so after a grace."""
        if self._running is None:
            return
        pid = self.pid
        os.kill(pid, signal.SIGTERM)
        _ = _wait_for(lambda: _has_ended(pid), _GRACE)
        self.kill()

    def kill(self) -> None:
        """End the process and what it forked at once, with no chance to save anything."""
        if self._running is None:
            return
        process, self._running = self._running, None
        os.killpg(process.pid, signal.SIGKILL)
        _ = process.wait()
        _ = _wait_for(lambda: not living_members(process.pid), _GRACE)

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _log_path(self) -> Path:
        return self._folder / f"{self.name}.log"

    def _wait_until_ready(self) -> None:
        pid = self.pid
        if not _wait_for(lambda: self._ready() or _has_ended(pid), self._timeout):
            raise self._failure(f"was not ready after {self._timeout:g} s")
        if _has_ended(pid):
            raise self._failure("ended before it was ready")
        if exposed := exposed_addresses(pid):
            raise self._failure(f"listens beyond loopback, on {', '.join(exposed)}")

    def _failure(self, what: str) -> ServerError:
        words = self._log_path.read_text(errors="replace")[-_LOG_TAIL:].strip()
        return ServerError(f"{self.name} {what}\n{words}")


def require_programs(*names: str) -> None:
    """Raise `ServerError` when a server's programs are not installed."""
    missing = [name for name in names if shutil.which(name, path=_search_path()) is None]
    if missing:
        raise ServerError(f"not installed: {', '.join(missing)} (`make servers-env` installs them)")


def require_emulator(name: str) -> Path:
    """The program of a server that comes as a Python package; `ServerError` when it is missing."""
    program = _EMULATORS / name
    if not program.exists():
        raise ServerError(f"not installed: {name} (`make emulators-env` installs it)")
    return program


def run(command: Sequence[str], folder: Path) -> str:
    """Run a server's own tool to its end and return what it printed.

    Raises `ServerError` with what it said when it fails.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_bare_environment(folder),
        cwd=folder,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        words = (done.stdout + done.stderr)[-_LOG_TAIL:].strip()
        raise ServerError(f"{command[0]} ended with status {done.returncode}\n{words}")
    return done.stdout


@contextmanager
def temporary_folder(kind: str, *, parent: Path | None = None) -> Generator[Path]:
    """A folder of the server's own, removed with all it holds."""
    with tempfile.TemporaryDirectory(
        prefix=f"blockyard-{kind}-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < give_up:
        time.sleep(_POLL)
    return held


def _has_ended(pid: int) -> bool:
    """Whether a child has ended, leaving it unreaped so that its pid stays its own."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _search_path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _bare_environment(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": _search_path(),
        "LANG": "C.UTF-8",
    }
