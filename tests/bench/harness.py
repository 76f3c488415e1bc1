"""The bench: contenders for the same work, run turn by turn, and what their figures say.

To add cases, write `tests/bench/cases_<room>.py` with a list `CASES`:

    CASES = [
        Case(
            name="rmap.set",
            units={"rate": "sets/s", "p99": "ms"},
            server=True,
            ours=Contender("terzetto", "tests.bench.ours_rmap:set_keys"),
            peers=[Contender("redis.asyncio", "tests.bench.peer_redis:hset", loop="asyncio")],
            goals={"redis.asyncio": 8.0},
        )
    ]

That module is imported by the bench itself, so it names contenders and imports
none. A contender is a context manager that gets a `Setting` and yields what to
measure: a function that does one bounded load (about half a second of it) and
returns its figures, by the names in `units`::

    @asynccontextmanager
    async def set_keys(setting: Setting) -> AsyncGenerator[AsyncMeasure]:
        async with terzetto.connect(setting.url) as redis:

            async def measure() -> Figures:
                with Stopwatch() as watch:
                    ...  # the work: COUNT of something
                return {"rate": COUNT / watch.seconds}

            yield measure

With `loop="trio"` (as above), `loop="asyncio"` and `loop="uvloop"` manager and
function are async, with `loop="none"` both are plain. A figure whose unit ends in ``/s`` is
better when it is higher, any other when it is lower; the first is the case's
own, the others are reported as ``<case>.<figure>``. A contender may leave out a
figure that it cannot know.

Each contender has a process of its own, which stays over the rounds, so that
imports and connects don't count; one round that is thrown away warms it up. In
each round all take their turn, in an order that moves on by one, so that
whatever else the machine does falls on all alike. A case with `server=True`
gets a `redis-server` without persistence, pinned to the first core; contenders
are then pinned to the others, or with `same_core=True` to the first one too.
With `apart=True` a contender's second process goes to the server's core, apart from its
first one: where both share a core, the kernel's choice of whom to run first is measured.
With `pinned=False` nothing is pinned, where more processes work than there are cores.
With `cluster=True` there are a server and, on the same core, a cluster of six.
A case with `long=True` takes minutes a turn: it runs only where it is named in full, and each
contender has one turn, with none to warm up.
With `turns` a round has so many for each contender, by turns: where the clock of the cores
moves by more within a second than what is to be told apart, many short turns tell it.
Contenders share those servers: keys open with `Setting.name`, and data must not
grow from turn to turn. A goal is for the case's own figure, or for another one
that stands after the peer's name: ``{"redis.asyncio": 8.0, "redis.asyncio p50": 8.0}``.

A peer that is not installed (its module does not import, or its contender
raises `MissingPeerError`) is reported by name; one that fails is reported with
its error. If ours fails, so does the bench.

The parts: this module is what cases and contenders import; `runner.py` starts
and drives the processes, `contender.py` is what runs in each, `server.py` the
Redis beside them, `report.py` the arithmetic and the tables, `__main__.py` the
command.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

import attrs

Figures = Mapping[str, float]
Measure = Callable[[], Figures]
AsyncMeasure = Callable[[], Awaitable[Figures]]
Loop = Literal["trio", "asyncio", "uvloop", "none"]


class MissingPeerError(Exception):
    """Something that a peer's contender needs is not on this machine; the text names it."""


@attrs.frozen(kw_only=True)
class Setting:
    """What a contender is told: a name for its keys, and the addresses of servers it may use.

    A second process of its own goes to `second_cores`, if there are any.
    """

    name: str
    port: int = 0
    url: str = ""
    cluster_port: int = 0
    second_cores: Sequence[int] = ()


@attrs.frozen
class Contender:
    """One way to do the work: ``module:function``, and the loop it runs on.

    `packages` are the distributions whose versions are reported with the name. One
    that cannot be in one environment with ours has what it needs in `requires`, as pip
    spells it, and gets an environment of its own.
    """

    name: str
    target: str
    loop: Loop = "trio"
    packages: Sequence[str] = ()
    requires: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class Case:
    """The same work for all: ours against peers, with the ratios that are the goal."""

    name: str
    units: Mapping[str, str]
    ours: Contender
    peers: Sequence[Contender] = ()
    server: bool = False
    same_core: bool = False
    apart: bool = False
    pinned: bool = True
    cluster: bool = False
    long: bool = False
    turns: int = 1
    goals: Mapping[str, float] = attrs.field(factory=dict[str, float])


class Stopwatch:
    """Measures the time that its block took, in `seconds`."""

    seconds: float = math.nan
    _began: float = math.nan

    def __enter__(self) -> Self:
        """Start the time."""
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop the time."""
        self.seconds = time.perf_counter() - self._began


@attrs.define
class Line:
    """One contender over a case: its turns' figures, or why it has none."""

    contender: Contender
    turns: list[Figures] = attrs.field(factory=list[Figures])
    versions: Mapping[str, str] = attrs.field(factory=dict[str, str])
    missing: str = ""
    error: str = ""

    @property
    def is_running(self) -> bool:
        """Whether it can take another turn."""
        return not (self.missing or self.error)
