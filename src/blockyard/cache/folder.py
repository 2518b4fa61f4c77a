"""The folder of the disk cache: its layout, its owner, and the epochs of its keys.

    CACHEDIR.TAG    backup programs leave the folder out: https://bford.info/cachedir/
    format          the version of this layout
    blocks/ab/NAME  an entry: see `entry.py`
    new/            what is being written, by whoever holds the lock
    lock            flock(2) by whoever writes: see `budget.py`
    usage           how much there is: see `budget.py`
    epochs          65,536 numbers of 8 bytes; the key's name says which one is its own

The folder may be removed while it is used, and made again by another process. `epochs` then has
other numbers than before, random ones; whoever has the old file open is told by `is_there`.

None of this is synced but the folder's own name and the small files, for what is staged in it: what
a power cut leaves of the rest is verified when it is read, and of another boot.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Self

from blockyard import syscalls
from blockyard.errors import ConfigError
from blockyard.managing import contextmanager
from blockyard.user_code import pass_on_foreign

SHARDS = 256
_FORMAT = b"blockyard-cache 1\n"
_TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of blockyard: all in it can be fetched again.
# See https://bford.info/cachedir/
"""
_OWN = {"CACHEDIR.TAG", "format", "blocks", "new", "lock", "usage", "epochs"}
_LATER = {"stage", "doubt", "locks"}
"""What versions of this layout that keep unwritten blocks have as well."""
_NOT_OURS = (errno.ELOOP, errno.EPERM, errno.EISDIR, errno.ENXIO)
_COUNTED = ("", *sorted(_OWN))
_TIMES_REMOVED = 3
"""As often may the folder be removed in the middle of a change."""
_SLOTS = 65_536
_SLOT = 8
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0)
"""The access time is the cache's own: see `budget.py`. The owner of a file may leave it."""
_NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "smb")
_NETWORK_FUSE = ("gluster", "goofys", "juicefs", "mountpoint", "rclone", "s3", "sshfs")
_MOUNTS = "/proc/self/mountinfo"
_BOOT = "/proc/sys/kernel/random/boot_id"
_TIME_NAMESPACE = "/proc/self/ns/time"
_INITIAL_NAMESPACE = "time:[4026531834]"
"""TIME_NS_INIT_INO of Linux's nsfs.h."""


class Descriptor:
    """An open file, closed when nothing refers to it any more.

    So a reader on another thread goes on when its owner lets go of it.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it now."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    __del__ = close


class Folder:
    """A folder that processes of one user share. Its methods raise `OSError`.

    `boot` names the boot of the system, whose monotonic clock times in entries are on. Where the
    system does not tell, nobody shares it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        boot = _boot_id()
        self.boot_is_known = boot is not None
        self.boot = boot or os.urandom(8)
        self._blocks = f"{self.root}/blocks"
        self._epochs = Descriptor(-1)

    def prepare(self) -> None:
        """Check that the folder can be used, and make what is missing of it.

        Raises `ConfigError` for a folder that is no cache, is another user's, or is on a network
        file system.
        """
        try:
            missing = [each for each in (self.root, *self.root.parents) if not each.exists()]
            for each in reversed(missing[1:]):  # nobody is to put another folder in its place
                each.mkdir(mode=0o755, exist_ok=True)
            self.root.mkdir(mode=0o700, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self._unusable("is no folder") from None
        for each in missing:
            syscalls.sync_folder_at(str(each.parent))
        self._check()
        for name in ("blocks", "new"):
            with suppress(FileExistsError):
                os.mkdir(self.root / name, 0o700)
        for name, content in (("CACHEDIR.TAG", _TAG), ("format", _FORMAT)):
            self._write_new(name, content)
        self._open_epochs()

    def path(self, name: bytes) -> str:
        """The path of an entry."""
        text = name.hex()
        return f"{self._blocks}/{text[:2]}/{text}"

    def entries(self) -> Generator[str]:
        """The paths of all entries."""
        for number in range(SHARDS):
            try:
                with os.scandir(self.shard(number)) as found:
                    yield from (each.path for each in found)
            except FileNotFoundError:
                continue

    def shard(self, number: int) -> str:
        """The folder of the entries whose names begin with that byte."""
        return f"{self._blocks}/{number:02x}"

    @property
    def temporary(self) -> str:
        """The folder of files being written."""
        return f"{self.root}/new"

    def open_entry(self, name: bytes, flags: int = os.O_RDONLY) -> Descriptor | None:
        """Open an entry; None where there is no file of ours."""
        try:
            return Descriptor(os.open(self.path(name), flags | _OPEN))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NOT_OURS:
                return None
            raise

    def epoch(self, name: bytes) -> int:
        """The epoch of the key: another number after each change of it.

        Changes made since the folder was removed are not counted: see `is_there`.
        """
        epochs = self._epochs  # not to be closed meanwhile
        return int.from_bytes(os.pread(epochs.number, _SLOT, _slot(name)))

    def is_there(self) -> bool:
        """Whether the epochs read so far are from the file that every process changes."""
        epochs = self._epochs
        return epochs.number >= 0 and os.fstat(epochs.number).st_nlink > 0

    def ensure(self) -> None:
        """`prepare` the folder if it was removed, or never ready."""
        if not self.is_there():
            self.prepare()

    def change(self, name: bytes) -> None:
        """Give the key a new, random epoch: that needs neither a lock nor the old one."""
        for _ in range(_TIMES_REMOVED):
            self.ensure()
            epochs = self._epochs
            syscalls.write_all_at(epochs.number, os.urandom(_SLOT), _slot(name))
            if self.is_there():
                return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.root}/epochs")

    def change_all(self) -> None:
        """Give all keys new epochs."""
        self.ensure()
        epochs = self._epochs  # not to be closed meanwhile: another file may get its number
        syscalls.write_all_at(epochs.number, os.urandom(_SLOTS * _SLOT), 0)

    def close(self) -> None:
        """Close the epochs file; readers on other threads go on."""
        self._epochs = Descriptor(-1)

    def remove(self, path: str) -> bool:
        """Remove an entry, and free its bytes even while it is open; False if there is none."""
        try:
            with _emptied(path):
                os.unlink(path)
        except (FileNotFoundError, IsADirectoryError):
            return False
        return True

    def replace(self, path: str, by: str) -> None:
        """Rename the file `by` to `path`; free the bytes of the entry that was there."""
        with _emptied(path):
            os.rename(by, path)

    def open_own(self, name: str) -> int:
        """Open one of the folder's own files, making it if need be."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(f"{self.root}/{name}", flags, 0o600)

    def own_size(self) -> int:
        """Bytes allocated to the folder's own files, which do not grow."""
        return sum(allocated(f"{self.root}/{name}") for name in _COUNTED)

    def _check(self) -> None:
        known = self.root.stat()
        if known.st_uid != os.geteuid():
            raise self._unusable(f"belongs to user {known.st_uid}, not to {os.geteuid()}")
        kind = _network_file_system(known.st_dev)
        if kind:
            raise self._unusable(f"is on a network file system ({kind})")
        names = set(os.listdir(self.root))
        found = self._format()
        if found and found != _FORMAT:
            raise self._unusable(f"has the format {found!r}, not {_FORMAT!r}")
        if not found and names - _OWN - _LATER:
            strange = min(names - _OWN - _LATER)
            raise self._unusable(f"is no cache, and not empty: it holds {strange!r}")
        if stat.S_IMODE(known.st_mode) & 0o077:
            if found:
                raise self._unusable("is open to other users: expected mode 0700")
            self.root.chmod(0o700)

    def _format(self) -> bytes:
        """What stands in `format`: nothing where a power cut lost it, or where there is none."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(self.root / "format", flags)
        except FileNotFoundError:
            return b""
        with Descriptor(file):
            return os.read(file, len(_FORMAT) + 1)

    def _unusable(self, what: str) -> ConfigError:
        return ConfigError(
            f"cache.disk.path: {self.root} {what}: expected a local folder of your own that is "
            "empty, or a cache"
        )

    def _write_new(self, name: str, content: bytes) -> None:
        """Write one of the small files atomically, unless it exists.

        It is synced: an empty `format`, as a power cut may leave of a new file, says nothing.
        """
        with suppress(FileNotFoundError):
            if os.stat(self.root / name, follow_symlinks=False).st_size:
                return
        temporary = f"{self.temporary}/{os.urandom(8).hex()}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            syscalls.write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        with suppress(FileNotFoundError):  # who holds the lock took it for a killed writer's
            os.rename(temporary, self.root / name)

    def _open_epochs(self) -> None:
        """Open the epochs file, fully allocated: changes have to be noted on a full disk as well.

        A new file has random epochs, unlike any earlier file: an old fill must not match them.
        """
        epochs = Descriptor(self.open_own("epochs"))
        if os.fstat(epochs.number).st_size < _SLOTS * _SLOT:
            syscalls.write_all_at(epochs.number, os.urandom(_SLOTS * _SLOT), 0)
        self._epochs = epochs


def allocated(path: str) -> int:
    """Bytes allocated to a file or folder; 0 where there is none."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0


@contextmanager
def _emptied(path: str) -> Generator[None]:
    """Truncate the file at `path`, once it has lost that name, when this is left."""
    file = Descriptor(-1)
    with syscalls.errors_ignored():  # there is none, or it is none of ours
        file = Descriptor(os.open(path, os.O_WRONLY | _OPEN))
    with file:
        yield
        if file.number >= 0 and stat.S_ISREG(os.fstat(file.number).st_mode):
            os.ftruncate(file.number, 0)


def _slot(name: bytes) -> int:
    return int.from_bytes(name[1:3]) * _SLOT


def _boot_id() -> bytes | None:
    """8 bytes of the boot's id; None where the system has none.

    Nor in a time namespace (time_namespaces(7)): the clock there is not that of others.
    """
    try:
        with suppress(FileNotFoundError):  # there is one clock for all
            if os.readlink(_TIME_NAMESPACE) != _INITIAL_NAMESPACE:
                return None
        with open(_BOOT, "rb") as file:
            return bytes.fromhex(file.read(64).decode().strip().replace("-", ""))[:8]
    except OSError as error:
        pass_on_foreign(error)
        return None
    except ValueError:
        return None


def _network_file_system(device: int) -> str:
    """The type of the file system with that device number if it is a network one; else ""."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(_MOUNTS, encoding="utf-8", errors="replace") as mounts:
            lines = [line.split() for line in mounts]
    except OSError as error:
        pass_on_foreign(error)
        return ""
    for fields in lines:
        if len(fields) > 6 and fields[2] == wanted and "-" in fields:
            kind = fields[fields.index("-") + 1]
            fuse = kind.startswith("fuse.") and any(name in kind for name in _NETWORK_FUSE)
            if fuse or kind.startswith(_NETWORK):
                return kind
    return ""
