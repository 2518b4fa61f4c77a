"""The fuzz targets, a little: without atheris, on their seeds and what lies near to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS

pytestmark = pytest.mark.thorough

steady = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)
        for end in range(0, len(seed), 7):
            TARGETS[name].run(seed[:end])


@pytest.mark.parametrize("name", TARGETS)
@steady
@given(data=st.data())
def test_near_the_seeds(name: str, data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(TARGETS[name].seeds)))
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(seed)))
        end = data.draw(st.integers(begin, min(begin + 8, len(seed))))
        seed[begin:end] = data.draw(st.binary(max_size=8))
    TARGETS[name].run(bytes(seed))


@pytest.mark.parametrize("name", TARGETS)
@steady
@given(data=st.binary(max_size=300))
def test_anything(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


def test_make_fuzz_knows_every_target() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    [named] = re.findall(r"^FUZZ_TARGETS := (.*)$", makefile, re.MULTILINE)
    assert named.split() == list(TARGETS)
