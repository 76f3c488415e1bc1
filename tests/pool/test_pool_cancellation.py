"""Every public await of a pool: cancelled at once, while Redis hangs, and when it is gone."""

import os
import signal
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.redis import LinkLostError, Redis, connect
from terzetto.server import EmbeddedServer


@attrs.define
class Handler:
    stopped: list[str] = attrs.field(factory=list[str])

    async def start(self, job: pool.Job) -> None:
        await trio.lowlevel.checkpoint()

    async def stop(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.stopped.append(key)


SENT: dict[str, Callable[[pool.Node], Awaitable[object]]] = {
    "dispatch": lambda node: node.dispatch("new"),
    "stop_job": lambda node: node.stop_job("a"),
    "notify": lambda node: node.notify("a", b""),
    "job_keys": lambda node: node.job_keys(),
    "job_payload": lambda node: node.job_payload("a"),
    "dead_letters": lambda node: node.dead_letters(),
    "discard_dead_letter": lambda node: node.discard_dead_letter("a"),
    "retry_dead_letter": lambda node: node.retry_dead_letter("a"),
    "add_worker": lambda node: node.add_worker(Handler()),
    "shutdown": lambda node: node.shutdown(),
}


@pytest.mark.parametrize("name", SENT)
async def test_a_cancelled_call_was_not_sent(redis: Redis, name: str) -> None:
    async with pool.open_node("p", redis, worker_ttl=1, ack_grace_period=1) as node:
        worker = await node.add_worker(Handler())
        await node.dispatch("a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await SENT[name](node)
        assert scope.cancelled_caught
        await node.dispatch("b")
        assert await node.job_keys() == ["a", "b"]
        assert worker.jobs == ["a", "b"]
        assert not node.is_closed


@pytest.mark.parametrize("name", SENT)
async def test_a_call_can_be_cancelled_while_redis_hangs(server: EmbeddedServer, name: str) -> None:
    async with (
        connect(server.url) as redis,
        pool.open_node("p", redis, worker_ttl=2, ack_grace_period=1) as node,
    ):
        await node.add_worker(Handler())
        await node.dispatch("a")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with trio.move_on_after(0.05) as scope:
                await SENT[name](node)
            assert scope.cancelled_caught
        finally:
            os.kill(server.pid, signal.SIGCONT)
        if name != "shutdown":  # a shutdown goes on when nobody waits for it any more
            await node.dispatch("b")
            assert "b" in await node.job_keys()


@pytest.mark.parametrize("name", SENT)
async def test_a_call_ends_when_redis_is_killed_and_so_does_the_node(
    server: EmbeddedServer, name: str
) -> None:
    with trio.fail_after(40):
        async with (
            connect(server.url) as redis,
            pool.open_node(
                "p", redis, worker_ttl=1, ack_grace_period=1, worker_shutdown_ttl=0.5
            ) as node,
        ):
            await node.add_worker(Handler(), grace=0.2)
            await node.dispatch("a")
            await server.kill()
            with trio.move_on_after(0.2) as scope:
                try:
                    await SENT[name](node)
                except LinkLostError:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            await server.start()


async def test_a_node_is_left_within_its_bounds_while_redis_does_not_answer(
    server: EmbeddedServer,
) -> None:
    handler = Handler()
    with trio.fail_after(50):
        async with connect(server.url) as redis:
            async with pool.open_node(
                "p", redis, worker_ttl=1, ack_grace_period=1, worker_shutdown_ttl=1
            ) as node:
                await node.add_worker(handler, grace=0.2)
                await node.dispatch("a")
                os.kill(server.pid, signal.SIGSTOP)
                began = trio.current_time()
            took = trio.current_time() - began
            os.kill(server.pid, signal.SIGCONT)
    assert took < 30
    assert handler.stopped == ["a"]


@pytest.mark.parametrize("client_only", [False, True])
async def test_a_node_without_jobs_is_left_soon_while_redis_does_not_answer(
    server: EmbeddedServer, *, client_only: bool
) -> None:
    with trio.fail_after(50):
        async with connect(server.url) as redis:
            async with pool.open_node("p", redis, client_only=client_only) as node:
                if not client_only:
                    for _ in range(3):
                        await node.add_worker(Handler())
                os.kill(server.pid, signal.SIGSTOP)
                began = trio.current_time()
            took = trio.current_time() - began
            os.kill(server.pid, signal.SIGCONT)
    assert took < 20


async def test_closing_goes_on_when_nobody_waits_for_it(redis: Redis) -> None:
    async with pool.open_node("p", redis, worker_ttl=1, ack_grace_period=1) as node:
        worker = await node.add_worker(Handler())
        await node.dispatch("a")
        for close in (worker.close, node.close):
            with trio.CancelScope() as scope:
                scope.cancel()
                await close()
            assert scope.cancelled_caught
        await node.close()
        assert worker.is_closed
        assert node.is_closed


async def test_a_cancelled_block_hands_the_jobs_over(redis: Redis) -> None:
    async with pool.open_node("p", redis, worker_ttl=1, ack_grace_period=1) as other:
        with trio.CancelScope() as scope:
            async with pool.open_node("p", redis, worker_ttl=1, ack_grace_period=1) as node:
                await node.add_worker(Handler())
                await node.dispatch("a", b"payload")
                scope.cancel()
                await trio.sleep_forever()
        heir = await other.add_worker(Handler())
        with trio.fail_after(20):
            while heir.jobs != ["a"]:  # noqa: ASYNC110 - a state of another task
                await trio.sleep(0.01)
        assert await other.job_payload("a") == b"payload"


async def test_a_block_that_raises_raises_that_and_nothing_else(redis: Redis) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool.open_node("p", redis) as node:
            await node.add_worker(Handler())
            await node.dispatch("a")
            raise ZeroDivisionError
