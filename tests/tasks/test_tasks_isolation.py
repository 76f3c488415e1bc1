"""What goes wrong with one task, or with what runs them, holds up and costs no other."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
from redis.exceptions import ResponseError
from trio.testing import MockClock

from terzetto.redis import Redis, connect
from terzetto.tasks import (
    ConcurrencyLimit,
    Grouping,
    Periodic,
    RateLimit,
    Router,
    Task,
    TaskContext,
    TaskMessage,
    TaskState,
    open_scheduler,
)
from terzetto.tasks._broker_values import Completion, Lease
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.tasks._router import Handle
from terzetto.tasks.testing import MemoryBroker
from tests.tasks.conftest import START, AnyBroker
from tests.tasks.serving import put, reaches, serving, task, until_true


@pytest.fixture
async def memory(autojump_clock: MockClock) -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def redis(single_url: str) -> AsyncGenerator[Redis]:
    async with connect(single_url) as client:
        await client.execute("FLUSHALL")
        yield client


# A crew that crashes -------------------------------------------------------------------


async def test_what_a_crew_that_crashed_left_unwritten_is_run_by_the_next(
    memory: MemoryBroker,
) -> None:
    """Its lease would be renewed for ever, and who waits until nothing runs would never end."""
    router, ran, hangs = Router(), list[bytes](), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    @attrs.define
    class Hanging:
        """Hangs where outcomes are written, and then has the crew crash."""

        memory: MemoryBroker

        def __getattr__(self, name: str) -> object:
            return getattr(self.memory, name)

        async def take_rate(self, *_: object, **__: object) -> float:
            raise OSError("a bug")

        async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
            if not hangs.is_set():
                hangs.set()
                await trio.sleep_forever()
            return await self.memory.complete_many(completions)

    limits = (RateLimit(name="crash", count=1, pattern="crash"),)
    hanging: Any = Hanging(memory)
    tasks = await put(memory, *(task(retention=600, max_retry=0) for _ in range(3)))
    async with serving(hanging, router, limits=limits) as server:
        await hangs.wait()
        await put(memory, task("crash"))
        for task_id in tasks:
            await reaches(memory, task_id, TaskState.COMPLETED)
        await server.shutdown()
    assert ran == [b""] * 6


# Outcomes that cannot be written ----------------------------------------------------------


@pytest.mark.parametrize("answer", [True, {"a": 1}, 7, "text", bytearray(b"x")])
async def test_middleware_that_returns_no_bytes_fails_its_own_task_only(
    place: AnyBroker, answer: object
) -> None:
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> bytes:
        return b"fine"

    def wrap(handle: Handle) -> Handle:
        async def around(ctx: TaskContext) -> Any:  # noqa: ANN401 - that is what is tested
            result = await handle(ctx)
            return answer if ctx.payload == b"odd" else result

        return around

    router.use(wrap)
    payloads = [b"even", b"odd", b"even"]
    first, odd, last = await put(place, *(task(payload=each, retention=60) for each in payloads))
    async with serving(place, router, retry_delay=late) as server:
        for task_id in (first, last):
            info = await reaches(place, task_id, TaskState.COMPLETED)
            assert info is not None
            assert info.result == b"fine"
        failed = await reaches(place, odd, TaskState.RETRY)
        await server.shutdown()
    assert failed is not None
    assert failed.result is None
    assert f"returned a {type(answer).__name__}" in failed.message.error


def late(retried: int, error: BaseException, message: TaskMessage) -> float:
    return 600.0


async def test_a_success_that_cannot_be_written_fails_its_own_task_only(
    memory: MemoryBroker,
) -> None:
    """It would be tried with the others, and crash what writes them."""
    router = Router()

    @router.task("x")
    async def work(payload: bytes) -> bytes:
        return payload

    @attrs.define
    class Picky:
        memory: MemoryBroker

        def __getattr__(self, name: str) -> object:
            return getattr(self.memory, name)

        async def complete_many(self, completions: Sequence[Completion]) -> list[bool]:
            for each in completions:
                await self.complete(each.lease, result=each.result)
            return [True] * len(completions)

        async def complete(self, lease: Lease, *, result: bytes | None, **_: object) -> bool:
            if result == b"odd":
                raise OverflowError("cannot be packed")
            return await self.memory.complete(lease, result=result)

    picky: Any = Picky(memory)
    payloads = [b"odd", b"even", b"even"]
    odd, *even = await put(memory, *(task(payload=each, retention=60) for each in payloads))
    async with serving(picky, router, retry_delay=late) as server:
        for task_id in even:
            await reaches(memory, task_id, TaskState.COMPLETED)
        failed = await reaches(memory, odd, TaskState.RETRY)
        await server.shutdown()
    assert failed is not None
    assert failed.message.error == "OverflowError: cannot be packed"


# Limits that Redis does not count -----------------------------------------------------------


NO_MEMORY = (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))
SERVERS = [f"~asynq:{name}" for name in ("{*", "servers*", "workers*", "queues")]
NO_KEY = (
    ("ACL", "SETUSER", "limited", "on", ">word", *SERVERS, "&*", "+@all"),
    ("ACL", "SETUSER", "limited", "allkeys"),
)
RATE = RateLimit(name="many", count=1000, pattern="x")
PLACES = ConcurrencyLimit(name="many", count=1000, pattern="x")
REFUSALS = {
    "rate, no memory": (RATE, "default", NO_MEMORY),
    "rate, no permission": (RATE, "limited", NO_KEY),
    "concurrency, no permission": (PLACES, "limited", NO_KEY),
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_tasks_that_redis_does_not_count_for_a_limit_wait_and_use_up_no_retry(
    redis: Redis, kind: str
) -> None:
    """They crashed the crew one after the other, and were archived without having run."""
    limit, user, (refuse, allow) = REFUSALS[kind]
    router, ran = Router(), list[bytes]()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    await put(RedisBroker(redis), *(task(max_retry=0) for _ in range(12)))
    await redis.execute(*refuse)
    try:
        async with (
            connect(redis.url.replace("//", f"//{user}:word@")) as restricted,
            serving(RedisBroker(restricted), router, limits=[limit]) as server,
        ):
            await until_true(lambda: server.statistics().postponed >= 12)
            assert not ran
            await redis.execute(*allow)
            await until_true(lambda: len(ran) == 12)
            await server.shutdown()
            assert server.statistics().recovered == 0
    finally:
        await redis.execute(*NO_MEMORY[1])
        await redis.execute("ACL", "DELUSER", "limited")


async def test_a_place_that_redis_does_not_free_costs_no_task(place: AnyBroker) -> None:
    """It expires; that of a lost attempt is given up likewise."""
    router, ran, over = Router(), list[bytes](), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        ran.append(payload)

    @router.task("beside")
    async def beside(payload: bytes) -> None:
        ran.append(payload)
        await over.wait()

    @attrs.define
    class Keeping:
        place: AnyBroker

        def __getattr__(self, name: str) -> object:
            return getattr(self.place, name)

        async def release(self, scope: str, holder: str) -> None:
            raise ResponseError("NOPERM")

    keeping: Any = Keeping(place)
    limit = ConcurrencyLimit(name="two", pattern="x", count=2)
    await put(place, task("beside", b"beside"))
    tasks = await put(place, *(task(max_retry=0) for _ in range(4)))
    async with serving(keeping, router, limits=[limit]) as server:
        for task_id in tasks:
            await reaches(place, task_id, None)
        over.set()
        await server.shutdown()
    assert ran == [b"beside", *[b""] * 4]


# Errors that can hardly be read -------------------------------------------------------------


def nested(depth: int, copies: int = 1) -> Exception:
    error: ExceptionGroup[Exception] = ExceptionGroup("g", [ValueError("x")])
    for _ in range(depth):
        error = ExceptionGroup[Exception]("g", [error] * copies)
    return error


def deep() -> BaseException:
    return nested(3000)


def shared() -> BaseException:
    """Return a group in which one error is a billion times."""
    return nested(30, copies=2)


def deep_exit() -> BaseException:
    return BaseExceptionGroup("g", [SystemExit(), nested(3000)])


@pytest.mark.parametrize("make", [deep, shared, deep_exit])
async def test_an_error_of_many_errors_decides_about_its_own_task_only(
    place: AnyBroker, make: Callable[[], BaseException]
) -> None:
    router, ran, over = Router(), list[bytes](), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        raise make()

    @router.task("beside")
    async def beside(payload: bytes) -> None:
        ran.append(payload)
        await over.wait()

    beside_id, failing = await put(place, task("beside"), task())
    async with serving(place, router, retry_delay=late):
        failed = await reaches(place, failing, TaskState.RETRY)
        over.set()
        await reaches(place, beside_id, None)
    assert failed is not None
    assert "ExceptionGroup: g (" in failed.message.error
    assert len(ran) == 1


# Hooks that raise what is no Exception ----------------------------------------------------------


def leave(*_: object) -> Any:  # noqa: ANN401 - it never returns
    raise SystemExit("as told")


async def leave_later(*_: object) -> Any:  # noqa: ANN401 - it never returns
    await trio.lowlevel.checkpoint()
    leave()


HOOKS: dict[str, dict[str, object]] = {
    "retry_delay": {"retry_delay": leave},
    "is_failure": {"is_failure": leave},
    "error_handler": {"error_handler": leave_later},
    "health_check": {"health_check": leave_later, "health_interval": 0.2},
    "key": {"limits": [ConcurrencyLimit(name="l", count=1, pattern="x", key=leave)]},
    "aggregate": {"grouping": Grouping(aggregate=leave_later, max_size=1)},
}


@pytest.mark.parametrize("hook", HOOKS)
async def test_a_hook_that_wants_to_end_the_program_ends_no_task(
    place: AnyBroker, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    router, ran, over = Router(), list[bytes](), trio.Event()

    @router.task("x")
    async def work(payload: bytes) -> None:
        raise ValueError("no")

    @router.task("beside")
    async def beside(payload: bytes) -> None:
        ran.append(payload)
        await over.wait()

    beside_id, failing, _ = await put(place, task("beside"), task(), task("grouped", group="g"))
    async with serving(place, router, **HOOKS[hook]):
        await reaches(place, failing, TaskState.RETRY)
        await until_true(lambda: any("SystemExit" in each.message for each in caplog.records))
        over.set()
        await reaches(place, beside_id, None)
    assert len(ran) == 1


async def test_hooks_of_a_scheduler_that_want_to_end_the_program_do_not(
    autojump_clock: MockClock,
) -> None:
    memory = MemoryBroker(start=START)
    entries = [Periodic("@every 1m", Task("x"))]
    async with open_scheduler(
        memory, entries=entries, before_enqueue=leave_later, after_enqueue=leave_later
    ):
        await trio.sleep(5 * 60 + 1)
    assert len(await memory.dequeue(["default"], 10)) == 5
