"""A backup that stores no block twice: each has the hash of its bytes as its key.

    python examples/backup.py s3://my-data/backup/ save FOLDER monday
    python examples/backup.py s3://my-data/backup/ restore FOLDER monday
    python examples/backup.py s3://my-data/backup/ verify

A snapshot is a content: the list of its files, each with the hashes of its blocks. It is written
last, so that every block that a snapshot names is there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blockyard
from blockyard import BLOCK_SIZE, BlockExistsError, BlockStore, IntegrityError

AT_ONCE = 16


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(description="Deduplicated backups in a block store.")
    parser.add_argument("store")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("save", "restore"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("snapshot")
    commands.add_parser("verify")
    given = parser.parse_args(words or None)
    with blockyard.open_store(given.store) as store:
        match given.command:
            case "save":
                new, known = save(store, given.folder, given.snapshot)
                print(f"{given.snapshot}: {new} blocks stored, {known} were there")
            case "restore":
                restore(store, given.folder, given.snapshot)
            case _:
                print(f"{verify(store)} blocks are as they were stored")


def save(store: BlockStore, folder: Path, snapshot: str) -> tuple[int, int]:
    """Store the files below `folder`; returns how many blocks are new, and how many were known."""
    files: dict[str, list[str]] = {}
    new = known = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            stored = list(pool.map(lambda data: save_block(store, data), blocks_of(path)))
            files[path.relative_to(folder).as_posix()] = [name for name, _ in stored]
            new += sum(is_new for _, is_new in stored)
            known += sum(not is_new for _, is_new in stored)
    store.write_content(f"snapshots/{snapshot}", json.dumps(files).encode(), if_absent=True)
    return new, known


def blocks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(BLOCK_SIZE):
            yield data


def save_block(store: BlockStore, data: bytes) -> tuple[str, bool]:
    """Its name, and whether it is new: of all who store the same bytes at once, one does."""
    name = hashlib.sha256(data).hexdigest()
    if store.block_exists(key_of(name)):  # costs less than to send what will be refused
        return name, False
    try:
        store.write_block(key_of(name), data, if_absent=True)
    except BlockExistsError:
        return name, False
    return name, True


def key_of(name: str) -> str:
    return f"blocks/{name[:2]}/{name}"


def restore(store: BlockStore, folder: Path, snapshot: str) -> None:
    """Write the files of a snapshot below `folder`."""
    files: dict[str, list[str]] = json.loads(store.read_content(f"snapshots/{snapshot}"))
    for relative, names in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for start in range(0, len(names), AT_ONCE):
                for data in read_named(store, names[start : start + AT_ONCE]):
                    file.write(data)


def read_named(store: BlockStore, names: list[str]) -> list[bytes]:
    """Blocks by the hash of their bytes, which is checked once more."""
    found = store.read_blocks([key_of(name) for name in names])
    for name, data in zip(names, found, strict=True):
        if hashlib.sha256(data).hexdigest() != name:
            raise IntegrityError(f"the block {key_of(name)} does not have the bytes of its name")
    return found


def verify(store: BlockStore) -> int:
    """Read every block that a snapshot names; raises for the first that is damaged or missing."""
    names: set[str] = set()
    for snapshot in store.list_contents("snapshots/"):
        files: dict[str, list[str]] = json.loads(store.read_content(snapshot.content_id))
        names.update(name for listed in files.values() for name in listed)
    wanted = sorted(names)
    for start in range(0, len(wanted), AT_ONCE):
        read_named(store, wanted[start : start + AT_ONCE])
    return len(wanted)


if __name__ == "__main__":
    main()
