"""How keys become paths: one path a key, one key a path, in the order of the keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockyard.keys import MAX_KEY_BYTES
from blockyard.stores.paths import BlockPath, Entry, entry_of, folders_of, key_of, path_of
from blockyard.testing.samples import ODD_KEYS

steady = settings(deadline=None)

LONG = [
    "a" * 239,
    "a" * 240,
    "a" * 241,
    "a" * 500,
    "a" * 238 + "\u00e9",
    "a" * 239 + "!",
    "." * 250,
]
PARTS = st.text("aB./%=\u00e9\U0001f600 !~-0\x01", max_size=6) | st.sampled_from(LONG)
KEYS = (
    st.lists(PARTS, min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda key: 1 <= len(key.encode()) <= MAX_KEY_BYTES)
)


def entries(path: BlockPath) -> list[Entry]:
    found = [entry_of(name) for name in (*path.folders, path.name)]
    assert None not in found
    return [entry for entry in found if entry is not None]


def spelled(path: BlockPath) -> str | None:
    return key_of(b"".join(entry.adds for entry in entries(path)))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("share/content/chunk-0/block-0", "share/content/chunk-0/block-0="),
        ("Photo (1).JPG", "Photo%20(1).JPG="),
        ("a", "a="),
        ("a/b", "a/b="),
        ("a/", "a/="),
        ("/a", "%/a="),
        ("a//b", "a/%/b="),
        ("..", "%2e.="),
        ("../.a/b.c", "%2e./%2ea/b.c="),
        (".blockyard/x", "%2eblockyard/x="),
        ("a=%", "a%3d%25="),
        ("caf\u00e9", "caf%c3%a9="),
        ("\x01\\", "%01%5c="),
        ("k" * 239, "k" * 239 + "="),
        ("k" * 240, "k" * 240 + "%/="),
        ("k" * 250 + "/l", "k" * 240 + "%/" + "k" * 10 + "/l="),
    ],
)
def test_paths_can_be_read(key: str, path: str) -> None:
    assert "/".join([*path_of(key).folders, path_of(key).name]) == path


@pytest.mark.parametrize("key", ODD_KEYS.values(), ids=ODD_KEYS)
def test_odd_keys_come_back(key: str) -> None:
    assert spelled(path_of(key)) == key


@steady
@given(KEYS)
def test_every_key_comes_back_from_names_that_every_disk_takes(key: str) -> None:
    path = path_of(key)

    assert spelled(path) == key
    for name in (*path.folders, path.name):
        assert 1 <= len(name) <= 255
        assert name.isascii()
        assert name.isprintable()
        assert not name.startswith(".")
        assert "/" not in name


@steady
@given(KEYS, KEYS)
def test_order_is_kept_and_no_two_keys_meet(one: str, other: str) -> None:
    first, second = path_of(one), path_of(other)

    assert (first == second) == (one == other)
    in_order = [each.adds for each in entries(first)] < [each.adds for each in entries(second)]
    assert in_order == (one.encode() < other.encode())


@steady
@given(KEYS, KEYS)
def test_no_file_is_another_s_folder(one: str, other: str) -> None:
    above = path_of(one)

    assert (*above.folders, above.name) != path_of(other).folders[: len(above.folders) + 1]


@steady
@given(st.text("aB.%=2eEfF/\u00e9\udc80", min_size=1) | st.text(min_size=1))
def test_a_name_that_means_something_is_the_only_one_that_does(name: str) -> None:
    entry = entry_of(name)

    if entry is None:
        return
    assert entry.name == name
    if not entry.is_block and entry.adds.endswith(b"/"):
        assert folders_of(entry.adds) == (name,)
    key = key_of(entry.adds)
    if key is not None and entry.is_block:
        assert path_of(key) == ((), name)


@pytest.mark.parametrize(
    "name",
    [
        ".blockyard",
        ".=",
        ".a=",
        "%2E=",
        "%61=",
        "%2f=",
        "%2fa",
        "a b=",
        "a%=",
        "%zz=",
        "a==",
        "caf\u00e9=",
        "\udcff=",
        "a%",
        "a" * 240 + "=",
        "a" * 240,
        "a" * 241 + "%",
    ],
)
def test_names_that_the_store_never_gives(name: str) -> None:
    assert entry_of(name) is None


@pytest.mark.parametrize("written", [b"", b"a\nb", b"a\0", b"\xff", b"k" * 1025])
def test_paths_that_spell_no_key(written: bytes) -> None:
    assert key_of(written) is None
