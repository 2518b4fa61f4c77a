"""The Hypothesis machine: it looks for a sequence of operations that breaks a promise.

Its rules are the operations of one `Actor`, whose model says what each may answer. A step that
breaks a promise fails the example; the steps are then printed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from blockyard.model import KIB
from blockyard.transport.blocking import run_to_end
from blockyard_faults.campaign.actor import Actor
from blockyard_faults.campaign.expected import Content
from blockyard_faults.campaign.mix import NAMES, PREFIXES

_STEPS = 50

_names = st.sampled_from(NAMES[:6])  # so few that most steps meet an earlier one
_sizes = st.one_of(st.integers(0, 64 * KIB), st.sampled_from([0, 1, 16 * KIB, 16 * KIB + 1]))
_contents = st.builds(Content, st.integers(0, 2**64 - 1), _sizes)
_offsets = st.integers(0, 64 * KIB)
_lengths = st.none() | st.integers(0, 64 * KIB)


def explore(
    new_actor: Callable[[str], Actor],
    finished: Callable[[Actor], None],
    *,
    seed: int,
    operations: int,
) -> None:
    """Run about `operations` steps, in examples of at most 50, each with an actor of its own.

    `new_actor` makes one for a namespace; `finished` is called with it after its last step.
    What is broken stands in the actors' tally.
    """
    numbers = itertools.count()

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.actor = new_actor(str(next(numbers)))
            self.renamed = itertools.count()
            self.keys = {name: f"{self.actor.namespace}/{name}" for name in NAMES}

        def perform(self, operation: Coroutine[Any, Any, None]) -> None:
            run_to_end(operation)
            for name, key in self.keys.items():
                if key in self.actor.settled:
                    self.keys[name] = f"{self.actor.namespace}/{name}~{next(self.renamed)}"

        @rule(name=_names, content=_contents, if_absent=st.booleans())
        def write(self, name: str, content: Content, if_absent: bool) -> None:
            self.perform(self.actor.write(self.keys[name], content, if_absent=if_absent))

        @rule(blocks=st.dictionaries(_names, _contents, min_size=1, max_size=5))
        def write_many(self, blocks: dict[str, Content]) -> None:
            named = [(self.keys[name], content) for name, content in blocks.items()]
            self.perform(self.actor.write_many(named))

        @rule(name=_names)
        def read(self, name: str) -> None:
            self.perform(self.actor.read(self.keys[name]))

        @rule(name=_names)
        def read_into(self, name: str) -> None:
            self.perform(self.actor.read_into(self.keys[name]))

        @rule(name=_names, offset=_offsets, length=_lengths)
        def read_range(self, name: str, offset: int, length: int | None) -> None:
            self.perform(self.actor.read_range(self.keys[name], offset, length))

        @rule(name=_names)
        def stat(self, name: str) -> None:
            self.perform(self.actor.stat(self.keys[name]))

        @rule(name=_names)
        def exists(self, name: str) -> None:
            self.perform(self.actor.exists(self.keys[name]))

        @rule(names=st.lists(_names, min_size=2, max_size=2, unique=True))
        def copy(self, names: list[str]) -> None:
            self.perform(self.actor.copy(self.keys[names[0]], self.keys[names[1]]))

        @rule(name=_names)
        def delete(self, name: str) -> None:
            self.perform(self.actor.delete(self.keys[name]))

        @rule(names=st.lists(_names, max_size=5))
        def delete_many(self, names: list[str]) -> None:
            self.perform(self.actor.delete_many([self.keys[name] for name in names]))

        @rule(prefix=st.sampled_from(PREFIXES))
        def delete_below(self, prefix: str) -> None:
            self.perform(self.actor.delete_below(f"{self.actor.namespace}/{prefix}"))

        @rule(prefix=st.sampled_from(("", *PREFIXES)))
        def list(self, prefix: str) -> None:
            self.perform(self.actor.list(f"{self.actor.namespace}/{prefix}"))

        @invariant()
        def nothing_is_broken(self) -> None:
            if self.actor.tally.broken:  # no assert: `python -O` would find nothing
                raise AssertionError(self.actor.tally.details)

        def teardown(self) -> None:
            finished(self.actor)

    machine = seeded(seed)(Machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(operations // _STEPS, 1),
            stateful_step_count=_STEPS,
            deadline=None,
            database=None,
            phases=(Phase.generate,),  # the faults are others on a second try: no shrinking
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
