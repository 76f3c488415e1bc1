"""What a cluster refuses, and where it goes then: transactions, units, watched keys, scripts."""

from contextlib import AsyncExitStack

import pytest
import trio
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ExecAbortError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from terzetto.redis import Gap, Message, Reply, Script, Transaction, Watching, connect
from terzetto.redis._refusals import asking, is_ask, named_by, refusal_of
from terzetto.redis._url import Endpoint
from terzetto.server import Cluster, open_cluster
from tests.redis.moving import (
    KEY,
    begin_move,
    end_move,
    move_keys,
    owner_and_other,
)

FAIL_OVER = 45.0  # seconds for the cluster to agree; the machine may be busy

MOVED = MovedError("1 h:1")
ASK = AskError("1 h:1")
AGAIN = TryAgainError("later")
ABORTED = ExecAbortError("discarded")
OTHER = ResponseError("wrong")


@pytest.mark.parametrize(
    ("commands", "replies", "refusal"),
    [
        (["GET"], [b"v"], None),
        (["GET"], [MOVED], MOVED),
        (["GET", "GET"], [ASK, MOVED], ASK),
        (["GET", "GET"], [MOVED, b"v"], None),  # one has run
        (["SET", "WAIT"], [MOVED, 1], MOVED),  # it waited for nothing
        (["WAIT"], [1], None),
        (["GET"], [OTHER], None),
        (["MULTI", "SET", "SET", "EXEC"], [b"OK", b"QUEUED", ASK, ABORTED], ASK),
        (["MULTI", "SET", "SET", "EXEC"], [b"OK", b"QUEUED", b"QUEUED", AGAIN], AGAIN),
        (["MULTI", "SET", "EXEC"], [b"OK", OTHER, ABORTED], None),
        (["MULTI", "SET", "EXEC"], [b"OK", b"QUEUED", [b"OK"]], None),
        (["MULTI", "SET", "EXEC"], [b"OK", b"QUEUED", None], None),  # a watched key changed
        (["MULTI", "SET", "EXEC", "GET"], [b"OK", MOVED, ABORTED, b"v"], None),
        (["MULTI", "SET", "DISCARD", "GET"], [b"OK", MOVED, b"OK", ASK], MOVED),
    ],
)
def test_a_unit_is_refused_if_nothing_of_it_has_run(
    commands: list[str], replies: list[Reply], refusal: RedisError | None
) -> None:
    assert refusal_of([(name, "k") for name in commands], replies) is refusal


def test_asking_comes_before_each_command_or_before_multi() -> None:
    unit = asking([("GET", "k"), ("MULTI",), ("GET", "k"), ("EXEC",), ("GET", "k")])
    assert unit.count == 8
    assert unit.data.count(b"ASKING") == 3
    assert unit.replies([0, 1, 2, 3, 4, 5, 6, 7]) == [1, 3, 4, 5, 7]


def test_a_redirection_without_a_host_is_to_the_senders_host() -> None:
    sender = Endpoint(host="10.0.0.1", port=1, tls=True)
    assert named_by(MovedError("5 :7"), sender) == Endpoint(host="10.0.0.1", port=7, tls=True)
    assert named_by(AskError("5 ::1:7"), sender) == Endpoint(host="::1", port=7, tls=True)
    assert is_ask(ASK)
    assert not is_ask(MOVED)
    assert not is_ask(ClusterDownError("down"))


async def test_transactions_and_scripts_while_a_slot_is_on_its_way(masters: Cluster) -> None:
    late = "{moving}late"
    script = Script("set", "return redis.call('SET', KEYS[1], ARGV[1])")
    done: list[str] = []
    async with (
        connect(masters.url) as redis,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        await redis.execute_many([("SET", KEY, 1), ("SET", late, 1)])

        async def both() -> None:
            """Run a transaction whose keys are here and there, then one that watches."""
            async with redis.transaction() as then:
                then.incr(KEY)
                then.incr(late)
            done.append("both")
            await redis.transact(change, KEY, late)
            done.append("watched")

        async def change(now: Watching, then: Transaction) -> None:
            then.set(KEY, int(await now.get(KEY) or 0) + 1)
            then.set(late, int(await now.get(late) or 0) + 1)

        with trio.fail_after(FAIL_OVER):
            await begin_move(source, target)
            await move_keys(source, target, [KEY])
            async with redis.transaction() as then:  # all of it is there
                then.incr(KEY)
                there = then.get(KEY)
            assert await there == b"2"
            async with redis.transaction() as then:  # all of it is here
                here = then.incr(late)
            assert await here == 2
            replies = await redis.execute_many([("GET", KEY), ("GET", late), ("INCR", KEY)])
            assert replies == [b"2", b"2", 3]
            assert await redis.run_script(script, keys=["{moving}new"], args=[1]) == b"OK"
            assert await target.client.execute("CLUSTER", "COUNTKEYSINSLOT", 14604) == 2
            async with trio.open_nursery() as nursery:
                nursery.start_soon(both)
                for _ in range(20):
                    await redis.execute("PING")
                assert not done
                await move_keys(source, target, [late])
                # Both are at the target now: TRYAGAIN has an end.
                while not done:  # noqa: ASYNC110 - it is another task's turn
                    await trio.sleep(0.01)
                await end_move(source, target)
            assert done == ["both", "watched"]
            assert await redis.execute("MGET", KEY, late) == [b"5", b"4"]


async def test_a_transaction_that_watches_goes_where_its_slot_goes(masters: Cluster) -> None:
    async with (
        connect(masters.url) as redis,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        await redis.execute("SET", KEY, 1)
        tries = 0

        async def change(now: Watching, then: Transaction) -> None:
            nonlocal tries
            tries += 1
            value = int(await now.get(KEY) or 0)
            if tries == 1:  # between the reading and the writing
                await begin_move(source, target)
                await move_keys(source, target, [KEY])
                await end_move(source, target)
            then.set(KEY, value + 1)

        with trio.fail_after(FAIL_OVER):
            await redis.transact(change, KEY)
            assert tries > 1
            assert await redis.execute("GET", KEY) == b"2"


async def test_a_cluster_that_is_down_is_waited_for() -> None:
    async with (
        open_cluster(replicas=0, node_timeout=1) as cluster,
        connect(cluster.url) as redis,
        AsyncExitStack() as stack,
    ):
        owner, other = await owner_and_other(stack, cluster)
        done: list[Reply] = []

        async def write() -> None:
            done.append(await redis.execute("SET", KEY, 1))
            async with redis.transaction() as then:
                value = then.incr(KEY)
            done.append(await value)

        with trio.fail_after(FAIL_OVER):
            await other.server.kill()
            while b"cluster_state:ok" in await owner.client.execute("CLUSTER", "INFO"):  # noqa: ASYNC110 - the event is in the server
                await trio.sleep(0.01)
            with pytest.raises(ResponseError, match=r"CLUSTERDOWN|cluster is down"):
                await owner.client.execute("GET", KEY)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                gone = next(
                    name
                    for name in ("a", "b", "c", "d")
                    if (redis.slot_owner(name) or "").endswith(f":{other.server.port}")
                )
                # Who waits for the dead may be cancelled, and leaves nothing.
                with trio.move_on_after(0.1) as waiting:
                    async with redis.subscribe(gone, sharded=True):
                        pytest.fail("nobody can have confirmed it")
                assert waiting.cancelled_caught
                with trio.move_on_after(0.1) as waiting:
                    async with redis.open_dedicated("reader", key=gone) as dedicated:
                        await dedicated.execute("BLPOP", gone, 0)
                assert waiting.cancelled_caught
                assert not done
                await other.server.start()
            assert done == [b"OK", 2]
            async with redis.subscribe(gone, sharded=True) as subscription:
                await redis.execute("SPUBLISH", gone, "m")
                assert await anext(subscription) == Message(gone.encode(), b"m")


async def test_sharded_channels_of_several_slots(masters: Cluster) -> None:
    """One subscription, heard from all owners, through a move and a lost connection."""
    names = ["a", "b", "c", "d", KEY]
    async with (
        connect(masters.url) as redis,
        AsyncExitStack() as stack,
    ):
        source, target = await owner_and_other(stack, masters)
        assert len({redis.slot_owner(name) for name in names}) == 3
        with trio.fail_after(FAIL_OVER):
            async with (
                redis.subscribe(*names, sharded=True) as news,
                redis.subscribe(KEY, sharded=True) as other,
            ):

                async def publish(text: str) -> None:
                    for name in names:
                        assert await redis.execute("SPUBLISH", name, text) == 1

                async def hear(text: str, *, gaps: int = 0) -> None:
                    heard: set[bytes] = set()
                    seen = 0
                    while len(heard) < len(names):
                        item = await anext(news)
                        if isinstance(item, Message):
                            assert item.data == text.encode()
                            heard.add(item.channel)
                        else:
                            seen += 1
                    assert seen >= gaps

                await publish("one")
                await hear("one")
                assert await anext(other) == Message(KEY.encode(), b"one")
                await begin_move(source, target)
                await end_move(source, target)
                assert await anext(other) == Gap()
                await publish("two")
                await hear("two", gaps=1)
                assert await anext(other) == Message(KEY.encode(), b"two")
                await source.client.execute("CLIENT", "KILL", "TYPE", "pubsub")
                assert await anext(news) == Gap()
                assert await redis.execute("SPUBLISH", KEY, "three") == 1
                async with redis.subscribe("e", "f", KEY, sharded=True) as late:
                    await redis.execute("SPUBLISH", "e", "four")
                    assert await anext(late) == Message(b"e", b"four")
            # Nobody listens any more, and soon no server has a subscriber.
            for member in (source, target):
                while await member.client.execute("PUBSUB", "SHARDCHANNELS"):  # noqa: ASYNC110 - the event is in the server
                    await trio.sleep(0.01)
            async with redis.subscribe(KEY, sharded=True) as news:
                await redis.execute("SPUBLISH", KEY, "five")
                assert await anext(news) == Message(KEY.encode(), b"five")
