"""What is too long, for us or for the server: whose it is, and what becomes of the others."""

from functools import partial

import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from terzetto.redis import LinkLostError, Redis, Reply, ReplyTooLongError, connect
from terzetto.server import Cluster, EmbeddedServer, open_sentinel
from tests.redis.scripted import PATIENCE, held, open_scripted, say_nothing

LIMIT = 1_000_000


async def fill(url: str) -> None:
    async with connect(url) as redis:
        await redis.execute("SET", "big", b"x" * 3 * LIMIT)
        await redis.execute("SET", "k", "v")


async def test_a_read_of_too_much_fails_and_is_not_sent_again(server: EmbeddedServer) -> None:
    await fill(server.url)
    async with connect(server.url, max_reply_bytes=LIMIT, max_backoff=0.05) as redis:
        with trio.fail_after(PATIENCE):
            for number in range(3):
                with pytest.raises(ReplyTooLongError, match="max_reply_bytes"):
                    await redis.execute("GET", "big")
                assert await redis.execute("GET", "k") == b"v"
                assert redis.statistics().connections == 2 + number


async def test_what_was_under_way_beside_a_read_of_too_much_is_as_at_any_loss(
    server: EmbeddedServer,
) -> None:
    """Reads are sent again, and writes are told that they may have run."""
    await fill(server.url)
    async with connect(server.url, max_reply_bytes=LIMIT, max_backoff=0.05) as redis:
        ends: dict[str, Reply] = {}

        async def call(name: str, *command: str) -> None:
            try:
                ends[name] = await redis.execute(*command)
            except (LinkLostError, ReplyTooLongError) as error:
                ends[name] = error

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                with held(server):
                    for name, command in (
                        ("before", ("GET", "k")),
                        ("big", ("GET", "big")),
                        ("read", ("GET", "k")),
                        ("write", ("INCR", "n")),
                    ):
                        nursery.start_soon(call, name, *command)
                        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(ends["big"], ReplyTooLongError)
        assert isinstance(ends["write"], LinkLostError)
        assert ends["write"].may_have_run
        assert isinstance(ends["write"].__cause__, ReplyTooLongError)
        assert ends["before"] == ends["read"] == b"v"
        assert redis.statistics().connections == 2


async def test_a_list_announced_too_long_fails_its_own_caller_only() -> None:
    """What comes in one piece with it, before it, is there still."""

    async def answer(stream: trio.SocketStream) -> None:
        data = b""
        expected, said = (3, b"+1\r\n*999999999\r\n") if server.connections == 1 else (1, b"+3\r\n")
        while data.count(b"GET") < expected:
            data += bytes(await stream.receive_some())
        await stream.send_all(said)
        await say_nothing(stream)

    async with open_scripted(answer) as server, connect(server.url, max_backoff=0.05) as redis:
        ends: list[Reply] = [None, None, None]

        async def get(number: int) -> None:
            try:
                ends[number] = await redis.execute("GET", number)
            except ReplyTooLongError as error:
                ends[number] = error

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(get, number)
                    await trio.testing.wait_all_tasks_blocked()
    assert ends[0] == b"1"
    assert isinstance(ends[1], ReplyTooLongError)
    assert ends[2] == b"3"


async def test_a_write_whose_reply_is_too_long_is_told_that_it_may_have_run(
    server: EmbeddedServer,
) -> None:
    await fill(server.url)
    async with connect(server.url, max_reply_bytes=LIMIT) as redis:
        with trio.fail_after(PATIENCE), pytest.raises(LinkLostError) as caught:
            await redis.execute("GETDEL", "big")
        assert caught.value.may_have_run
        assert isinstance(caught.value.__cause__, ReplyTooLongError)


async def test_a_message_that_is_too_long_ends_no_subscribing(
    server: EmbeddedServer, redis: Redis
) -> None:
    """It is no reply, though one may be waited for."""
    async with connect(server.url, max_reply_bytes=LIMIT, max_backoff=0.05) as narrow:
        with trio.fail_after(PATIENCE):
            async with narrow.subscribe("c"), trio.open_nursery() as nursery:
                nursery.start_soon(partial(redis.execute, "PUBLISH", "c", b"x" * 3 * LIMIT))
                for number in range(20):
                    async with narrow.subscribe(f"c{number}"):
                        pass


async def test_a_read_of_too_much_fails_in_a_cluster(masters: Cluster) -> None:
    await fill(masters.url)
    async with connect(masters.url, max_reply_bytes=LIMIT, max_backoff=0.05) as redis:
        with trio.fail_after(PATIENCE):
            with pytest.raises(ReplyTooLongError):
                await redis.execute("GET", "big")
            assert await redis.execute("GET", "k") == b"v"


async def test_a_read_of_too_much_from_a_replica_is_not_sent_to_the_master() -> None:
    async with open_sentinel(replicas=2) as group:
        async with connect(group.url) as redis:
            _, reached = await redis.execute_replicated(
                [("SET", "big", b"x" * 3 * LIMIT)], replicas=2, within=PATIENCE
            )
            assert reached == 2
        async with connect(
            group.url, max_reply_bytes=LIMIT, max_backoff=0.05, read_from="replica"
        ) as redis:
            with trio.fail_after(PATIENCE):
                with pytest.raises(ReplyTooLongError):
                    await redis.execute("GET", "big")
                await redis._replica.wait_connected()  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - nothing else tells
                with pytest.raises(ReplyTooLongError):
                    await redis.execute_many([("GET", "big")])
            assert redis.statistics().connections == 1


async def test_a_value_that_the_server_refuses_before_it_has_it_whole_ends_no_client(
    server: EmbeddedServer,
) -> None:
    async with connect(server.url, max_backoff=0.05) as redis:
        await redis.execute("CONFIG", "SET", "proto-max-bulk-len", 2**20)
        try:
            for _ in range(5):  # more often than a link is started again
                with pytest.raises((ResponseError, LinkLostError)):
                    await redis.execute("SET", "k", b"x" * 30 * LIMIT)
                assert await redis.execute("PING") == b"PONG"
        finally:
            await redis.execute("CONFIG", "SET", "proto-max-bulk-len", 512 * 2**20)
