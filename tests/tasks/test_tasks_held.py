"""What a busy server holds: the task that is next when a slot falls free, and nobody is hurt."""

import math
from collections.abc import Sequence
from typing import Any, Final, cast

import attrs
import pytest
import trio

from terzetto.tasks import Router, Server, TaskContext, TaskState
from terzetto.tasks import _crew as crew_module
from terzetto.tasks import _held as held_module
from terzetto.tasks._broker import Broker
from terzetto.tasks._broker_values import CancelRequest, Completion, Lease
from terzetto.tasks._held import PATIENCE, WORTH_IT, Held
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import QUICK, put, reaches, serving, task, until_true

SLOTS: Final = 2
FEW: Final[dict[str, Any]] = {"concurrency": SLOTS, "shutdown_timeout": 0.1}


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers hold tasks where slots fall free sooner than it is worth it."""
    monkeypatch.setattr(held_module, "WORTH_IT", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers hold a task for longer than a loaded machine may stall."""
    monkeypatch.setattr(held_module, "PATIENCE", 60.0)


@attrs.define
class Work:
    """Functions that go on until they are let go, in the order in which they began."""

    router: Router = attrs.field(factory=Router)
    begun: list[str] = attrs.field(factory=list[str])
    deadlines: dict[str, float] = attrs.field(factory=dict[str, float])
    _ends: dict[str, trio.Event] = attrs.field(factory=dict[str, trio.Event])
    _let_go: int = 0

    def __attrs_post_init__(self) -> None:
        self.router.handle("x", self._run)

    async def _run(self, payload: bytes, ctx: TaskContext) -> None:
        self._ends[ctx.id] = end = trio.Event()
        self.deadlines[ctx.id] = ctx.deadline_at
        self.begun.append(ctx.id)
        await end.wait()
        if payload == b"fails":
            raise ValueError("as it should")

    def let_go(self) -> str:
        """Let the function end that is next."""
        task_id = self.begun[self._let_go]
        self._let_go += 1
        self._ends[task_id].set()
        return task_id

    async def replace(self) -> None:
        """Let one end, and wait until another has begun."""
        begun = len(self.begun)
        self.let_go()
        await until_true(lambda: len(self.begun) > begun)

    async def until_held(self, server: Server) -> str:
        """Let two slots fall free, so that the server holds a task; return its id."""
        await until_true(lambda: len(self.begun) >= SLOTS)
        for _ in range(2):
            await self.replace()
        await until_true(lambda: held(server))
        (task_id,) = held(server)
        return task_id


@attrs.define
class Watched:
    """A broker that is asked for tasks, as it is told to be, and heard of."""

    place: AnyBroker
    limits: list[int] = attrs.field(factory=list[int])
    """How many tasks it was asked for, each time."""
    extended: set[str] = attrs.field(factory=set[str])
    """Whose leases were renewed."""
    gives: trio.Event = attrs.field(factory=trio.Event)
    """Set: requests are answered."""
    crash: trio.Event | None = None
    """If there is one, the next write of successes waits for it; then none works until a crash."""
    is_broken: bool = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.place, name)

    async def dequeue(self, queues: Sequence[str], limit: int, *, lease_for: float) -> list[Lease]:
        self.limits.append(limit)
        await self.gives.wait()
        return await self.place.dequeue(queues, limit, lease_for=lease_for)

    async def extend(self, leases: Sequence[Lease], *, lease_for: float) -> tuple[float, set[str]]:
        self.extended.update(lease.message.id for lease in leases)
        return await self.place.extend(leases, lease_for=lease_for)

    async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
        if self.crash is not None:
            crash, self.crash = self.crash, None
            await crash.wait()
            self.is_broken = True
            raise OSError("a bug")
        return await self.place.complete_many(completions)

    async def complete(self, lease: Lease, *, result: bytes | None, retain: bool) -> bool:
        if self.is_broken:
            raise OSError("a bug")
        return await self.place.complete(lease, result=result, retain=retain)

    async def retry(self, lease: Lease, **how: Any) -> bool:  # noqa: ANN401 - passed on
        if self.is_broken:
            self.is_broken = False
            raise OSError("a bug")
        return await self.place.retry(lease, **how)


@pytest.fixture
def watched(place: AnyBroker) -> Watched:
    found = Watched(place)
    found.gives.set()
    return found


def as_broker(watched: Watched) -> Broker:
    return cast("Broker", watched)


def held(server: Server) -> list[str]:
    return [] if server.core is None else [one.message.id for one in server.core.held.leases]


async def pending(place: AnyBroker) -> list[str]:
    """Return the ids of those that are pending, the next to be taken first."""
    found = await place.list_tasks("default", TaskState.PENDING, first=0, count=100)
    return [one.id for one in found]


def lease(task_id: str) -> Lease:
    return Lease(message=task(id=task_id).message, token=task_id, expires_at=math.inf)


# When a server holds one --------------------------------------------------------------


def test_one_is_held_while_slots_fall_free_every_so_often() -> None:
    it = Held()
    assert it.room(0.0) == 0
    it.slot_freed(10.0, waited=1.0)
    assert it.room(10.0) == 0  # perhaps the next one comes in ten minutes
    it.slot_freed(10.0 + PATIENCE, waited=1.0)
    assert it.room(10.0 + PATIENCE) == 0
    it.slot_freed(20.0, waited=1.0)
    it.slot_freed(20.1, waited=0.1)
    assert it.room(20.1) == 1
    assert it.room(20.1 + PATIENCE) == 0
    assert Held(0).room(20.1) == 0


def test_none_is_held_while_slots_fall_free_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    it, quick = Held(), WORTH_IT / 2
    it.slot_freed(0.0, waited=WORTH_IT)
    it.slot_freed(0.1, waited=quick)
    assert it.room(0.1) == 1
    for tenth in range(2, 20):
        it.slot_freed(tenth / 10, waited=quick)
    assert it.room(2.0) == 0


def test_what_is_held_goes_to_a_slot_in_time_or_to_none() -> None:
    it, first, second = Held(), lease("first"), lease("second")
    assert it.take(0.0) is None
    it.slot_freed(0.0, waited=1.0)
    it.slot_freed(0.0, waited=1.0)
    it.hold([first, second], 0.0)
    assert (it.room(0.0), it.seconds_left(0.5)) == (0, PATIENCE - 0.5)
    assert it.take(0.5) is first
    assert (it.take(PATIENCE), it.seconds_left(PATIENCE)) == (None, 0.0)
    it.hold([lease("third")], 1.0)
    it.give_up()
    assert (it.take(1.0), it.seconds_left(1.0)) == (None, 0.0)
    it.drop(second)
    it.drop(second)
    assert [one.token for one in it.leases] == ["third"]
    assert it.room(1.0) == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("payload", [b"", b"fails"])
async def test_a_slot_that_falls_free_begins_what_is_held_without_a_request(
    place: AnyBroker, watched: Watched, payload: bytes
) -> None:
    work = Work()
    await put(place, *(task(payload=payload) for _ in range(10)))
    async with serving(as_broker(watched), work.router, **FEW) as server:
        next_one = await work.until_held(server)
        assert server.statistics().running == SLOTS
        watched.gives = trio.Event()  # from now on, Redis says nothing
        await work.replace()
        assert work.begun[-1] == next_one
        assert server.statistics().running == SLOTS
        watched.gives.set()
        await until_true(lambda: held(server))
        assert next_one not in held(server)


@pytest.mark.usefixtures("patient")
async def test_the_time_of_what_is_held_begins_when_its_function_does(place: AnyBroker) -> None:
    work = Work()
    await put(place, *(task(timeout=100) for _ in range(10)))
    async with serving(place, work.router, **FEW) as server:
        next_one = await work.until_held(server)
        held_at = place.now()
        await trio.sleep(0.5)  # for how long it is held is what is tested
        await work.replace()
        assert work.begun[-1] == next_one
        # Clocks may be set right by a little meanwhile.
        assert work.deadlines[next_one] - 100 > held_at + 0.4


async def test_none_is_held_where_slots_seldom_fall_free(
    place: AnyBroker, watched: Watched
) -> None:
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(as_broker(watched), work.router, **FEW):
        await until_true(lambda: len(work.begun) == SLOTS)
        await work.replace()
        await trio.sleep(PATIENCE)  # how long no slot falls free is what is tested
        await work.replace()
        await place.sync_clock()  # a request that was sent by now would have been counted
    assert watched.limits == [SLOTS, 1, 1]


async def test_none_is_held_where_functions_are_quick(
    place: AnyBroker, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request brings many tasks then, and one more would only be more work."""
    monkeypatch.setattr(held_module, "WORTH_IT", 60.0)  # quick: also on a loaded machine
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(as_broker(watched), work.router, **FEW):
        await until_true(lambda: len(work.begun) == SLOTS)
        for _ in range(4):
            await work.replace()
    assert max(watched.limits[1:]) == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("queues", "order", "ahead"),
    [
        ({"high": 2, "low": 1}, "strict", 0),
        ({"high": 2, "low": 1}, "weighted", 1),
        ({"low": 1}, "strict", 1),
    ],
)
async def test_none_is_held_where_a_queue_comes_strictly_first(
    place: AnyBroker, watched: Watched, queues: dict[str, int], order: str, ahead: int
) -> None:
    """It would be begun before what comes into that queue meanwhile."""
    work = Work()
    await put(place, *(task(queue="low") for _ in range(10)))
    async with serving(
        as_broker(watched), work.router, queues=queues, strict=order == "strict", **FEW
    ):
        await until_true(lambda: len(work.begun) == SLOTS)
        for _ in range(4):
            await work.replace()
        assert max(watched.limits[1:]) == 1 + ahead
        for _ in range(SLOTS):
            work.let_go()


@pytest.mark.usefixtures("patient")
async def test_what_is_held_is_begun_though_its_queue_is_paused_but_nothing_after_it(
    place: AnyBroker,
) -> None:
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(place, work.router, queues={"default": 1, "other": 1}, **FEW) as server:
        next_one = await work.until_held(server)
        await place.pause("default")
        await work.replace()
        assert work.begun[-1] == next_one
        begun = list(work.begun)
        (other,) = await put(place, task(queue="other"))
        for _ in range(SLOTS):
            work.let_go()
        # Requests that bring this one would bring those of a paused queue, too.
        await until_true(lambda: other in work.begun)
        assert work.begun == [*begun, other]
        work.let_go()


# How it goes back ---------------------------------------------------------------------


async def test_what_is_held_of_a_paused_queue_is_not_begun_once_its_time_is_over(
    place: AnyBroker,
) -> None:
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(place, work.router, queues={"default": 1, "other": 1}, **FEW) as server:
        next_one = await work.until_held(server)
        await place.pause("default")
        await reaches(place, next_one, TaskState.PENDING)
        begun = list(work.begun)
        (other,) = await put(place, task(queue="other"))
        for _ in range(SLOTS):
            work.let_go()
        await until_true(lambda: other in work.begun)
        assert work.begun == [*begun, other]
        work.let_go()


async def test_what_no_slot_takes_goes_back_and_none_is_held_until_slots_fall_free(
    place: AnyBroker, watched: Watched
) -> None:
    work = Work()
    ids = await put(place, *(task() for _ in range(10)))
    async with serving(as_broker(watched), work.router, **FEW) as server:
        next_one = await work.until_held(server)
        assert await reaches(place, next_one, TaskState.ACTIVE)
        asked = len(watched.limits)
        await reaches(place, next_one, TaskState.PENDING)
        assert next_one not in work.begun
        assert await pending(place) == ids[ids.index(next_one) :]
        # That nothing is asked for has no event: the span is the test.
        await trio.sleep(2 * QUICK["poll_interval"])
        assert (len(watched.limits), held(server)) == (asked, [])
        await work.replace()
        assert work.begun[-1] == next_one
        assert watched.limits[asked:] == [1]
        await work.until_held(server)


@pytest.mark.usefixtures("patient")
async def test_a_server_that_stops_hands_back_what_it_holds(place: AnyBroker) -> None:
    work = Work()
    ids = await put(place, *(task() for _ in range(10)))
    async with serving(place, work.router, **FEW) as server:
        next_one = await work.until_held(server)
        begun = len(work.begun)
        server.stop()
        work.let_go()  # before the fetcher's turn
        await reaches(place, next_one, TaskState.PENDING)
        assert await pending(place) == ids[ids.index(next_one) :]
        assert len(work.begun) == begun
        work.let_go()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["close", "shutdown"])
async def test_a_server_that_ends_hands_back_what_it_holds(place: AnyBroker, how: str) -> None:
    work = Work()
    ids = await put(place, *(task() for _ in range(10)))
    async with serving(place, work.router, **FEW) as server:
        next_one = await work.until_held(server)
        running = work.begun[-SLOTS:]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(getattr(server, how))
            if how == "shutdown":
                await until_true(lambda: server.status == "stopped")
                for _ in range(SLOTS):
                    work.let_go()
    rest = ids[ids.index(next_one) :]
    # What ran is next, and only then what did not.
    assert (await pending(place))[-len(rest) :] == rest
    assert sorted(await pending(place)) == sorted(rest + running * (how == "close"))
    info = await place.read_task("default", next_one)
    assert info is not None
    assert info.message.retried == 0


@pytest.mark.usefixtures("patient")
async def test_what_is_held_when_the_crew_crashes_goes_back_with_no_retry_counted(
    place: AnyBroker, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "LAST_WORDS", 0.1)  # what its bug lost is never written
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(as_broker(watched), work.router, **FEW) as server:
        before = await work.until_held(server)
        watched.crash = crash = trio.Event()
        await work.replace()
        await until_true(lambda: held(server) not in ([], [before]))
        (next_one,) = held(server)
        crash.set()
        info = await reaches(place, next_one, TaskState.PENDING)
        assert info is not None
        assert info.message.retried == 0


@pytest.mark.usefixtures("patient")
async def test_no_slot_takes_what_is_held_while_the_crew_is_ending(place: AnyBroker) -> None:
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(place, work.router, **FEW) as server:
        next_one = await work.until_held(server)
        core = server.core
        assert core is not None
        crew, core.crew = core.crew, None  # as it does first when it ends
        assert core.take_held() is None
        core.crew = crew
        assert held(server) == [next_one]


@pytest.mark.usefixtures("patient")
async def test_a_slot_of_a_function_that_waited_for_nothing_takes_what_is_held(
    place: AnyBroker,
) -> None:
    """The hand that ran it goes on with another task that waits: one more begins the held one."""
    work = Work()

    async def wait_for_nothing(_payload: bytes, ctx: TaskContext) -> None:
        work.begun.append(ctx.id)

    work.router.handle("quick", wait_for_nothing)
    await put(place, *(task(id=f"first {number}") for number in range(7)))
    async with serving(place, work.router, concurrency=3, shutdown_timeout=0.1) as server:
        await until_true(lambda: len(work.begun) == 3)
        for _ in range(3):
            await work.replace()
        await until_true(lambda: held(server))
        await put(place, task("quick", id="quick"), task(id="beside"), task(id="last"))
        for _ in range(3):
            work.let_go()  # one slot takes what is held; the next request brings the others
        await until_true(lambda: {"quick", "beside", "last"} <= set(work.begun))


# Whoever looks at it meanwhile --------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("state", [TaskState.RETRY, TaskState.ARCHIVED])
async def test_what_is_held_can_be_cancelled(place: AnyBroker, state: TaskState) -> None:
    work, drop = Work(), state is TaskState.ARCHIVED
    await put(place, *(task() for _ in range(10)))
    async with serving(place, work.router, **FEW) as server:
        next_one = await work.until_held(server)
        await place.send_cancel(CancelRequest(task_id="another", drop=drop))
        await place.send_cancel(CancelRequest(task_id=next_one, queue="another", drop=drop))
        await place.send_cancel(CancelRequest(task_id=next_one, queue="default", drop=drop))
        info = await reaches(place, next_one, state)
        assert info is not None
        assert info.message.error == "context canceled"
        assert next_one not in [*held(server), *work.begun]
        statistics = server.statistics()
        assert (statistics.archived, statistics.retried) == (int(drop), int(not drop))
        await work.replace()  # its slots go on
        work.let_go()


@pytest.mark.usefixtures("patient")
async def test_the_lease_of_what_is_held_is_renewed_and_given_up_if_it_is_lost(
    place: AnyBroker, watched: Watched
) -> None:
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(as_broker(watched), work.router, **FEW) as server:
        next_one = await work.until_held(server)
        await until_true(lambda: next_one in watched.extended)
        assert server.core is not None
        (lease,) = server.core.held.leases
        assert await place.requeue(lease)  # as another does who finds that it has run out
        await until_true(lambda: held(server) == [])
        assert next_one not in work.begun
        await work.replace()
        assert work.begun[-1] == next_one
        assert server.statistics().lost == 0
        work.let_go()


@pytest.mark.usefixtures("patient")
async def test_what_is_held_is_active_and_no_worker_runs_it(place: AnyBroker) -> None:
    work = Work()
    await put(place, *(task() for _ in range(10)))
    async with serving(place, work.router, **FEW) as server:
        next_one = await work.until_held(server)
        assert await reaches(place, next_one, TaskState.ACTIVE)
        assert server.core is not None
        assert server.core.server_info().active_workers == SLOTS
        assert next_one not in {one.task_id for one in server.core.workers()}
        assert server.statistics().unwritten == 0
