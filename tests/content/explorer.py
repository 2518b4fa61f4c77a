"""A model checker: breadth-first exploration of everything that concurrent clients can meet.

A process is a generator that yields one atomic action at a time and is sent the reply. It knows of
the world only what replies tell it, so it is a function of them: its generator is run once for
each of its local states and each reply, and what follows is remembered, as in an automaton. A local
state is the position and the local variables, all hashable, of the frames of the generator. Values
on the interpreter's stack are not seen: a `for` loop around a `yield` takes its items, each another
one, from a local variable, and a `yield` is not an operand of a larger expression.

The world is an immutable value. It applies actions and raises `BrokenError` where an invariant
fails. A request that changes something may be applied with its reply lost, once more after that (a
proxy repeats it), or be under way when its client gives up: what is under way is applied at any
moment within `late` minutes, or never. Time passes from one of the scenario's instants to the next,
between any two actions. A process may be killed at any point, its request under way; that it takes
no step for a while, or for ever, needs no kill. The power may fail: that kills all processes at
once, but for those of a scenario that come afterwards.

The first trace that is found is one of the shortest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

LOST = "lost"
"""The reply to a request whose outcome its client does not know."""


class BrokenError(Exception):
    """An invariant does not hold."""


class Action(Protocol):
    """What a process asks for."""

    @property
    def local(self) -> bool:
        """Whether it is no request: taken at once, with the step before."""
        ...

    @property
    def changes(self) -> bool:
        """Whether it is a request that changes something, whose reply may be lost."""
        ...

    @property
    def not_before(self) -> int:
        """The minute from which on it can be taken."""
        ...


class World(Protocol):
    """The service, and what the invariants need to know of the past."""

    def apply(self, process: str, action: Any, now: int, late: bool) -> tuple[World, Any]:
        """The world after `action`, and the reply. Raises `BrokenError`."""
        ...

    def killed(self, process: str) -> World:
        """The world once a process is gone, and what it held of the system."""
        ...

    def power_failed(self, now: int) -> World:
        """The world after a power cut: what was not synced is gone. Raises `BrokenError`."""
        ...


Process = Generator[Any, Any, Any]


@dataclass(frozen=True)
class Scenario:
    """Where exploration begins, and the bounds of what may go wrong."""

    world: World
    processes: Mapping[str, Callable[[], Process]]
    instants: tuple[int, ...] = (0,)
    faults: int = 1
    kills: int = 0
    late: int = 5
    repeats: bool = False
    power_cuts: int = 0
    after_power_cut: frozenset[str] = frozenset()
    """Processes that go on when the power fails, which it does before their first step."""


class Found(NamedTuple):
    """How many states there are, or were seen until an invariant broke: which one, and how."""

    states: int
    broken: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What happened, a line each step."""
        lines = [f"{self.broken or 'nothing broken'} ({self.states} states)"]
        return "\n".join([*lines, *(f"{n:3}. {step}" for n, step in enumerate(self.trace, 1))])


class UnderWay(NamedTuple):
    """A request that its client has given up."""

    process: str
    action: Any
    since: int


class State(NamedTuple):
    """Everything that the future depends on. `local` has a number for each process."""

    world: Any
    local: tuple[int, ...]
    under_way: tuple[UnderWay, ...]
    instant: int
    faults: int
    kills: int
    power_cuts: int = 0


class Automaton:
    """The local states of one process, as far as they have been reached."""

    def __init__(self, process: Callable[[], Process]) -> None:
        self._process = process
        self._numbers: dict[Any, int] = {}
        self._replies: list[tuple[Any, ...]] = []
        self._next: dict[tuple[int, Any], int] = {}
        self.actions: list[Any] = []
        """What the process asks for in each local state; None when it has ended."""
        self.ended = self._number("ended", (), None)
        self.begin = self._reach(())

    def after(self, number: int, reply: Any) -> int:
        """The local state that `reply` leads to."""
        if (number, reply) not in self._next:
            self._next[number, reply] = self._reach((*self._replies[number], reply))
        return self._next[number, reply]

    def _reach(self, replies: tuple[Any, ...]) -> int:
        generator = self._process()
        try:
            action = next(generator)
            for reply in replies:
                action = generator.send(reply)
        except StopIteration:
            return self.ended
        return self._number((action, *_frames(generator)), replies, action)

    def _number(self, local: Any, replies: tuple[Any, ...], action: Any) -> int:
        if local not in self._numbers:
            self._numbers[local] = len(self.actions)
            self._replies.append(replies)
            self.actions.append(action)
        return self._numbers[local]


def _frames(generator: Any) -> Iterator[Any]:
    while generator is not None:
        yield generator.__name__, generator.gi_frame.f_lasti
        yield tuple(sorted(generator.gi_frame.f_locals.items(), key=lambda item: item[0]))
        generator = generator.gi_yieldfrom


class Explorer:
    """All states of a scenario, the nearest first."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._names = list(scenario.processes)
        self._automata = [Automaton(process) for process in scenario.processes.values()]
        self._origin: dict[State, tuple[State, tuple[str, Any]] | None] = {}

    def explore(self, limit: int) -> Found:
        """Look at every state. Raises `RuntimeError` when there are more than `limit`."""
        scenario = self._scenario
        local = tuple(automaton.begin for automaton in self._automata)
        left = (scenario.faults, scenario.kills, scenario.power_cuts)
        root = State(scenario.world, local, (), 0, *left)
        for index in range(len(local)):
            root = self._local(root, index)
        self._origin = {root: None}
        queue = deque([root])
        while queue:
            state = queue.popleft()
            for step in self._steps(state):
                try:
                    new = self._take(state, *step)
                except BrokenError as error:
                    return Found(len(self._origin), str(error), self._trace(state, step))
                if new not in self._origin:
                    self._origin[new] = state, step
                    queue.append(new)
            if len(self._origin) > limit:
                raise RuntimeError(f"more than {limit} states")
        return Found(len(self._origin))

    def _steps(self, state: State) -> Iterator[tuple[str, Any]]:
        now = self._scenario.instants[state.instant]
        for index, automaton in enumerate(self._automata):
            action = automaton.actions[state.local[index]]
            if action is None:
                continue
            if action.not_before <= now:
                yield "answered", index
                if action.changes and state.faults:
                    yield "applied, reply lost", index
                    yield "under way", index
                    if self._scenario.repeats:
                        yield "applied and under way", index
            if state.kills:
                yield "killed", index
        for request in state.under_way:
            yield "late", request
        if state.power_cuts and self._none_after_power_cut(state):
            yield "power fails", None
        if state.instant + 1 < len(self._scenario.instants):
            yield "time passes", None

    def _take(self, state: State, what: str, on: Any) -> State:
        if what == "time passes":
            now = self._scenario.instants[state.instant + 1]
            late = self._scenario.late
            left = tuple(request for request in state.under_way if now - request.since < late)
            return state._replace(instant=state.instant + 1, under_way=left)
        now = self._scenario.instants[state.instant]
        if what == "power fails":
            return self._power_fails(state, now)
        if what == "late":
            left = list(state.under_way)
            left.remove(on)
            world, _ = state.world.apply(on.process, on.action, now, late=True)
            return state._replace(world=world, under_way=tuple(left))
        action = self._automata[on].actions[state.local[on]]
        process, reply = self._names[on], LOST
        if what in {"answered", "applied, reply lost", "applied and under way"}:
            world, answer = state.world.apply(process, action, now, late=False)
            state = state._replace(world=world)
            reply = answer if what == "answered" else LOST
        if what in {"under way", "applied and under way", "killed"} and action.changes:
            state = _sent(state, UnderWay(process, action, now))
        if what == "killed":
            state = state._replace(kills=state.kills - 1, world=state.world.killed(process))
            return self._enter(state, on, self._automata[on].ended)
        if reply is LOST:
            state = state._replace(faults=state.faults - 1)
        after = self._automata[on].after(state.local[on], reply)
        return self._local(self._enter(state, on, after), on)

    def _none_after_power_cut(self, state: State) -> bool:
        """Whether none has begun of those that begin after a power cut."""
        return all(
            number == automaton.begin
            for name, number, automaton in zip(
                self._names, state.local, self._automata, strict=True
            )
            if name in self._scenario.after_power_cut
        )

    def _power_fails(self, state: State, now: int) -> State:
        for index, (name, automaton) in enumerate(zip(self._names, self._automata, strict=True)):
            action = automaton.actions[state.local[index]]
            if action is None or name in self._scenario.after_power_cut:
                continue
            if action.changes:
                state = _sent(state, UnderWay(name, action, now))
            state = state._replace(world=state.world.killed(name))
            state = self._enter(state, index, automaton.ended)
        world = state.world.power_failed(now)
        return state._replace(world=world, power_cuts=state.power_cuts - 1)

    def _local(self, state: State, index: int) -> State:
        """Take the actions of a process that are no requests."""
        now, automaton = self._scenario.instants[state.instant], self._automata[index]
        action = automaton.actions[state.local[index]]
        while action is not None and action.local:
            world, reply = state.world.apply(self._names[index], action, now, late=False)
            after = automaton.after(state.local[index], reply)
            state = self._enter(state._replace(world=world), index, after)
            action = automaton.actions[after]
        return state

    @staticmethod
    def _enter(state: State, index: int, number: int) -> State:
        local = state.local
        return state._replace(local=(*local[:index], number, *local[index + 1 :]))

    def _trace(self, state: State, last: tuple[str, Any]) -> tuple[str, ...]:
        lines = [self._tell(state, *last)]
        while (origin := self._origin[state]) is not None:
            state, step = origin
            lines.append(self._tell(state, *step))
        return tuple(reversed(lines))

    def _tell(self, state: State, what: str, on: Any) -> str:
        if what == "time passes":
            return f"minute {self._scenario.instants[state.instant + 1]}"
        if what == "power fails":
            return "the power fails"
        if what == "late":
            return f"applied late, from {on.process}: {on.action}"
        action = self._automata[on].actions[state.local[on]]
        return f"{self._names[on]}: {action}: {what}"


def _sent(state: State, request: UnderWay) -> State:
    return state._replace(under_way=tuple(sorted([*state.under_way, request], key=repr)))


def explore(scenario: Scenario, limit: int = 200_000) -> Found:
    """Look at every state of `scenario` until an invariant breaks. `RuntimeError` over `limit`."""
    return Explorer(scenario).explore(limit)
