"""Parts of a server: cancelling, limits, groups, trees, and restarts."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from redis.exceptions import ResponseError

from terzetto.actor import Tree, open_tree
from terzetto.errors import InvalidOptionError
from terzetto.tasks import (
    ConcurrencyLimit,
    Grouping,
    RateLimit,
    Router,
    Task,
    TaskMessage,
    TaskState,
    server_child,
)
from terzetto.tasks._broker_values import CancelRequest, Completion, Lease
from terzetto.tasks._core import Core
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import QUICK, put, reaches, serving, task, until, until_true

# Cancelling ---------------------------------------------------------------------------


async def test_a_task_that_has_begun_can_be_cancelled(place: AnyBroker) -> None:
    """However long it takes until the server hears whom to cancel: tasks begin after that."""
    router, begun = Router(), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        await place.send_cancel(CancelRequest(task_id=task_id))
        begun.set()
        await trio.sleep_forever()

    @attrs.define
    class Deaf:
        """Hears late: when a task has begun, or has had the time to."""

        place: AnyBroker

        def __getattr__(self, name: str) -> object:
            return getattr(self.place, name)

        @asynccontextmanager
        async def open_cancels(self) -> AsyncGenerator[AsyncIterator[CancelRequest]]:
            with trio.move_on_after(0.5):
                await begun.wait()
            async with self.place.open_cancels() as requests:
                yield requests

    (task_id,) = await put(place, task())
    deaf: Any = Deaf(place)
    async with serving(deaf, router):
        await reaches(place, task_id, TaskState.RETRY)


# Outcomes and renewals ---------------------------------------------------------------


async def test_a_renewal_that_comes_after_the_outcome_is_no_loss(place: AnyBroker) -> None:
    """It finds no lease any more, and may be heard of before the outcome is."""
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> None:
        pass

    @attrs.define
    class Renewed:
        """Has the renewal of leases in between."""

        place: AnyBroker
        core: Core | None = None

        def __getattr__(self, name: str) -> object:
            return getattr(self.place, name)

        async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
            written = await self.place.complete_many(completions)
            assert self.core is not None
            _, lost = await self.place.extend([each.lease for each in completions])
            for token in lost:
                self.core.running[token].lose()
            return written

    renewed: Any = Renewed(place)
    async with serving(renewed, router) as server:
        await until_true(lambda: server.core)
        renewed.core = server.core
        (task_id,) = await put(place, task())
        await reaches(place, task_id, None)
        await until_true(lambda: not server.statistics().unwritten)
        assert server.statistics().lost == 0


# Limits ------------------------------------------------------------------------------


async def test_no_more_of_a_kind_run_at_once_than_a_limit_says(place: AnyBroker) -> None:
    router, ran, most = Router(), list[bytes](), dict[bytes, int]()
    now: dict[bytes, int] = {}

    @router.task("mail")
    async def work(payload: bytes) -> None:
        now[payload] = now.get(payload, 0) + 1
        most[payload] = max(most.get(payload, 0), now[payload])
        await trio.sleep(0.01)
        now[payload] -= 1
        ran.append(payload)

    @router.task("other")
    async def other(payload: bytes) -> None:
        ran.append(payload)

    def customer(message: TaskMessage) -> str | None:
        return message.payload.decode()

    limits = [ConcurrencyLimit(name="mail", pattern="mail", count=1, key=customer)]
    names = (b"ann", b"bob")
    await put(place, *(task("mail", name) for name in names for _ in range(3)), task("other"))
    # Two servers, for a limit is the whole fleet's.
    async with (
        serving(place, router, limits=limits),
        serving(place, router, limits=limits) as second,
    ):
        await until_true(lambda: len(ran) == 7)
        assert second.statistics().retried == 0
    assert most == {b"ann": 1, b"bob": 1}
    (figures,) = await place.read_queues(["default"])
    assert figures is not None
    assert (figures.processed, figures.failed) == (7, 0)


async def test_tasks_start_no_more_often_than_a_rate_says(place: AnyBroker) -> None:
    router, starts = Router(), list[float]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        starts.append(trio.current_time())

    limits = [RateLimit(name="slow", count=2, per=1.0, burst=1)]
    await put(place, *(task(max_retry=0) for _ in range(5)))
    async with serving(place, router, limits=limits) as server:
        await until_true(lambda: len(starts) == 5)
        assert server.statistics().postponed >= 3
    assert starts[-1] - starts[0] >= 4 * 0.5 - 0.1


async def test_servers_share_the_starts_that_a_rate_allows(place: AnyBroker) -> None:
    """Each serves a queue of its own, so that neither can begin both tasks."""
    router, starts = Router(), list[float]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        starts.append(trio.current_time())

    limits = [RateLimit(name="slow", count=1, per=2.0)]
    await put(place, task(queue="a", max_retry=0), task(queue="b", max_retry=0))
    opened_at = trio.current_time()  # no later than the first start was allowed
    async with (
        serving(place, router, limits=limits, queues={"a": 1}),
        serving(place, router, limits=limits, queues={"b": 1}),
    ):
        await until_true(lambda: len(starts) == 2)
    assert starts[1] - opened_at >= 2.0


async def test_a_limit_whose_key_fails_limits_nothing(place: AnyBroker) -> None:
    router, ran = Router(), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.set()

    def broken(message: TaskMessage) -> str:
        raise ValueError(message.id)

    await put(place, task())
    async with serving(place, router, limits=[ConcurrencyLimit(name="l", count=1, key=broken)]):
        await ran.wait()


# Groups ------------------------------------------------------------------------------


async def test_a_group_becomes_one_task_when_it_is_large_enough(place: AnyBroker) -> None:
    router, digests = Router(), list[bytes]()

    @router.task("digest")
    async def digest(payload: bytes) -> None:
        digests.append(payload)

    async def aggregate(group: str, tasks: Sequence[TaskMessage]) -> Task:
        body = group.encode() + b":" + b",".join(each.payload for each in tasks)
        return Task("digest", body, queue="ignored")

    grouping = Grouping(aggregate=aggregate, max_size=3, grace=1.0)
    await put(place, *(task("mail", b"%d" % n, group="ann") for n in range(7)))
    async with serving(place, router, grouping=grouping):
        # Two by their size; the rest once nothing has joined for the grace.
        await until_true(lambda: len(digests) == 3)
    assert sorted(digests) == [b"ann:0,1,2", b"ann:3,4,5", b"ann:6"]
    assert await place.list_groups("default") == []


async def test_tasks_whose_aggregation_fails_go_back_to_their_group(place: AnyBroker) -> None:
    router, tried = Router(), trio.Event()

    @router.task("digest")
    async def digest(payload: bytes) -> None: ...

    async def aggregate(group: str, tasks: Sequence[TaskMessage]) -> Task:
        tried.set()
        raise ValueError("cannot")

    (task_id,) = await put(place, task("mail", group="ann"))
    async with serving(place, router, grouping=Grouping(aggregate=aggregate, max_size=1)):
        await tried.wait()
        assert await reaches(place, task_id, TaskState.AGGREGATING)


# Trees and restarts ------------------------------------------------------------------


async def test_a_server_in_a_tree_serves_at_once_and_survives_crashes_of_its_parts(
    place: AnyBroker,
) -> None:
    router, ran = Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    @attrs.define
    class Flaky:
        """Has the fetcher crash twice."""

        place: AnyBroker
        crashes: int = 2

        def __getattr__(self, name: str) -> object:
            return getattr(self.place, name)

        async def dequeue(
            self, queues: Sequence[str], limit: int, *, lease_for: float
        ) -> list[Lease]:
            if self.crashes:
                self.crashes -= 1
                raise OSError("a bug")
            return await self.place.dequeue(queues, limit, lease_for=lease_for)

    await put(place, task(payload=b"1"))
    flaky: Any = Flaky(place)
    child = server_child(flaky, router, name="tasks", **QUICK)
    async with open_tree(Tree(name="service", children=(child,))) as tree:
        await until_true(lambda: ran == [b"1"])
        (server,) = tree.describe().children
        restarts = {part.name: part.restarts for part in server.children}
        assert {"presence", "leases", "crew", "forward"} < restarts.keys()
        assert (restarts.pop("fetcher"), server.restarts) == (2, 0)
        assert set(restarts.values()) == {0}
        await put(place, task(payload=b"2"))
        await until_true(lambda: len(ran) == 2)
    assert flaky.crashes == 0
    assert await place.list_servers() == []


def test_a_child_is_checked_where_it_is_made() -> None:
    place: Any = None
    with pytest.raises(InvalidOptionError, match="no function"):
        server_child(place, Router())
    router = Router()
    router.handle("x", partial(pytest.fail), run_in="thread")
    with pytest.raises(InvalidOptionError, match="restart"):
        server_child(place, router, restart="permanent")


async def test_what_redis_refuses_is_written_when_it_can_be(place: AnyBroker) -> None:
    """An outcome that is refused (out of memory, read only) is tried until it is taken."""
    router, ran = Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    @attrs.define
    class Full:
        place: AnyBroker
        refusals: int = 3

        def __getattr__(self, name: str) -> object:
            return getattr(self.place, name)

        async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
            raise ResponseError("OOM command not allowed")

        async def complete(self, lease: Lease, **more: object) -> bool:
            if self.refusals:
                self.refusals -= 1
                raise ResponseError("OOM command not allowed")
            return await self.place.complete(lease)

    (task_id,) = await put(place, task())
    full: Any = Full(place)
    async with serving(full, router):
        await reaches(place, task_id, None)
    assert full.refusals == 0
    assert len(ran) == 1


async def test_what_redis_refuses_is_given_up_when_the_lease_is_lost(place: AnyBroker) -> None:
    router, ran = Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    @attrs.define
    class Full:
        """Refuses each outcome, for ever."""

        place: AnyBroker
        refusals: int = 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.place, name)

        async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
            raise ResponseError("OOM command not allowed")

        async def complete(self, lease: Lease, **more: object) -> bool:
            self.refusals += 1
            raise ResponseError("OOM command not allowed")

    await put(place, task())
    full: Any = Full(place)
    async with serving(full, router, lease=60.0) as server:
        await until_true(lambda: full.refusals >= 2)
        assert server.statistics().unwritten == 1
        (stolen,) = await place.take_expired("default", grace=-120.0)  # before its time
        await until_true(lambda: server.statistics().unwritten == 0)
        assert server.statistics().lost == 1
    assert len(ran) == 1
    assert await place.complete(stolen)


async def test_a_function_that_ignores_its_cancellation_keeps_its_lease(place: AnyBroker) -> None:
    router, running, release = Router(), trio.Event(), trio.Event()
    starts = 0

    @router.task("x")
    async def stubborn(payload: bytes) -> None:
        nonlocal starts
        starts += 1
        running.set()
        with trio.CancelScope(shield=True):
            await release.wait()

    (task_id,) = await put(place, task(timeout=1))
    async with serving(place, router) as server, serving(place, router):
        await running.wait()
        await trio.sleep(4)  # longer than its timeout, and than a lease lasts
        assert server.statistics().lost == 0
        assert starts == 1
        release.set()
        await until(lambda: _is_over(place, task_id))


async def _is_over(place: AnyBroker, task_id: str) -> bool:
    info = await place.read_task("default", task_id)
    return info is None or info.state is TaskState.RETRY
