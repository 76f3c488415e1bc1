"""The cluster: moving slots, scripts, what is split and what is refused."""

from contextlib import AsyncExitStack

import pytest
import trio

from terzetto.redis import (
    ConnectError,
    CrossSlotError,
    LinkClosedError,
    Script,
    UrlError,
    WrongLinkError,
    connect,
)
from terzetto.redis._actors import open_keeper
from terzetto.redis._topology import Topology
from terzetto.redis._url import Endpoint, Options
from terzetto.server import Cluster, EmbeddedServer, free_port, open_cluster
from tests.redis.moving import (
    KEY,
    SLOT,
    Member,
    begin_move,
    end_move,
    move_keys,
    move_slot,
    owner_and_other,
)

FAIL_OVER = 45.0  # seconds for the cluster to agree; the machine may be busy


async def test_a_slot_that_moves_is_followed(masters: Cluster) -> None:
    script = Script("get", "return redis.call('GET', KEYS[1])")
    async with connect(masters.url) as redis, AsyncExitStack() as stack:
        source, target = await owner_and_other(stack, masters)
        await redis.execute("SET", KEY, "v")
        assert await redis.run_script(script, keys=[KEY]) == b"v"
        async with redis.open_dedicated("reader", key=KEY) as dedicated:
            assert await dedicated.execute("GET", KEY) == b"v"
            with trio.fail_after(FAIL_OVER):
                await move_slot(source, target, [KEY])
                assert await redis.execute("GET", KEY) == b"v"  # MOVED
                assert await dedicated.execute("GET", KEY) == b"v"
                assert await redis.run_script(script, keys=[KEY]) == b"v"
                async with redis.transaction() as then:
                    then.set(KEY, "w")
                async with redis.watch_keys(KEY) as now:
                    assert await now.get(KEY) == b"w"
        assert await source.client.execute("CLUSTER", "COUNTKEYSINSLOT", SLOT) == 0


async def test_the_owner_that_is_remembered_for_a_key_follows_its_slot(masters: Cluster) -> None:
    async with connect(masters.url) as redis, AsyncExitStack() as stack:
        source, target = await owner_and_other(stack, masters)
        await redis.execute("SET", KEY, "v")
        for key in (KEY, KEY.encode(), KEY):
            assert await redis.execute("GET", key) == b"v"
        with trio.fail_after(FAIL_OVER):
            await move_slot(source, target, [KEY])
            before = await count_errors("MOVED", source)
            assert await redis.execute("GET", KEY) == b"v"
            assert await count_errors("MOVED", source) == before + 1
            for key in (KEY, KEY.encode(), KEY):
                assert await redis.execute("GET", key) == b"v"
            assert await count_errors("MOVED", source) == before + 1


async def count_errors(code: str, *members: Member) -> int:
    """Return how often these masters have answered with an error."""
    count = 0
    for member in members:
        stats: bytes = await member.client.execute("INFO", "errorstats")
        _, found, rest = stats.partition(f"errorstat_{code}:count=".encode())
        count += int(rest.split()[0]) if found else 0
    return count


async def test_a_slot_on_its_way_is_asked_for(masters: Cluster) -> None:
    async with connect(masters.url) as redis, AsyncExitStack() as stack:
        source, target = await owner_and_other(stack, masters)
        await redis.execute("SET", KEY, "v")
        await begin_move(source, target)
        with trio.fail_after(FAIL_OVER):
            assert await redis.execute("GET", KEY) == b"v"  # still here
            await redis.execute("SET", "{moving}new", 1)  # ASK: already there
            assert await redis.execute("GET", "{moving}new") == b"1"
            replies = await redis.execute_many([("GET", KEY), ("GET", "{moving}new")])
            assert replies == [b"v", b"1"]
            before = await count_errors("TRYAGAIN", source, target)
            async with trio.open_nursery() as nursery:
                # TRYAGAIN: one key here and one there, until the slot has arrived.
                nursery.start_soon(redis.execute, "MSET", KEY, "x", "{moving}new", "y")
                while await count_errors("TRYAGAIN", source, target) == before:  # noqa: ASYNC110 - the event is in the servers
                    await trio.sleep(0.01)
                await move_keys(source, target, [KEY])
                await end_move(source, target)
            assert await redis.execute("MGET", KEY, "{moving}new") == [b"x", b"y"]


async def test_what_is_split_and_what_is_refused(masters: Cluster) -> None:
    async with connect(masters.url) as redis:
        keys = [f"k{number}" for number in range(20)]
        replies = await redis.execute_many([("SET", key, key) for key in keys])
        assert replies == [b"OK"] * 20
        assert await redis.execute("MGET", *keys, "none") == [*(k.encode() for k in keys), None]
        assert await redis.mget(keys) == [key.encode() for key in keys]
        assert await redis.execute("EXISTS", *keys, "none") == 20
        assert await redis.execute("TOUCH", *keys, "none") == 20
        assert await redis.execute("DBSIZE") == 20
        assert len(await redis.execute("KEYS", "k*")) == 20
        assert await redis.execute("DEL", *keys[:10]) == 10
        assert await redis.unlink(*keys) == 10
        async with redis.pipeline() as pipe:
            lengths = [pipe.append(key, "xy") for key in keys]
        assert [await length for length in lengths] == [2] * 20
        await redis.execute("FLUSHALL")
        assert await redis.execute("DBSIZE") == 0
        for args in [
            ("MSET", "a", 1, "b", 2),
            ("RENAME", "a", "b"),
            ("SUNION", "a", "b"),
            ("BLPOP", "a", "b", 0),
            ("XREAD", "STREAMS", "a", "b", 0, 0),
            ("EVAL", "return 1", 2, "a", "b"),
        ]:
            with pytest.raises(CrossSlotError, match=r"'a' and 'b' are .* a common \{tag\}"):
                await redis.execute(*args)
        with pytest.raises(CrossSlotError):
            await redis.execute_many([("MULTI",), ("SET", "a", 1), ("SET", "b", 1), ("EXEC",)])
        with pytest.raises(CrossSlotError):
            async with redis.transaction() as then:
                then.set("a", 1)
                then.set("b", 1)
        with pytest.raises(CrossSlotError):
            await redis.run_script(Script("two", "return 1"), keys=["a", "b"])
        with pytest.raises(CrossSlotError):
            async with redis.watch_keys("a", "b"):
                pass
        with pytest.raises(WrongLinkError, match="send both with open_dedicated"):
            await redis.execute("WAIT", 1, 0)
        assert await redis.execute("DBSIZE") == 0  # nothing was sent


async def test_scripts_are_known_where_they_run(masters: Cluster) -> None:
    keys = ["a", "b", "c", "d"]
    async with connect(masters.url) as redis, AsyncExitStack() as stack:
        assert len({redis.slot_owner(key) for key in keys}) == 3
        script = redis.register_script("return redis.call('INCR', KEYS[1]) + ARGV[1]")
        assert [await script([key], [10]) for key in keys] == [11] * 4  # sent whole where new
        assert await redis.script_exists(script.sha) == [True]
        await redis.script_flush()
        one = await stack.enter_async_context(connect(masters.members[0].url))
        await one.script_load(script.script.source)
        assert await redis.script_exists(script.sha) == [False]  # not everywhere
        assert [await script([key], [10]) for key in keys] == [12] * 4
        await redis.script_flush()
        assert await redis.script_load(script.script.source) == script.sha
        for member in masters.members:
            client = await stack.enter_async_context(connect(member.url))
            assert await client.script_exists(script.sha) == [True]
        assert await redis.evalsha(script.sha, 1, "a", 10) == 13
        heard: list[int] = []
        all_told = trio.Event()

        def hear(reply: int) -> None:
            heard.append(reply)
            if len(heard) == len(keys):
                all_told.set()

        for key in keys:
            assert redis.post_script(script.script, [key], [10], hear)
        with trio.fail_after(20):
            await all_told.wait()
        assert sorted(heard) == [13, 13, 13, 14]
        heard.clear()
        all_told = trio.Event()
        for key in keys:
            assert redis.post("INCRBY", key, 1, on_reply=hear)
        with trio.fail_after(20):
            await all_told.wait()
        assert sorted(heard) == [4, 4, 4, 5]


async def test_one_seed_of_several_is_enough(masters: Cluster) -> None:
    async with connect(f"redis-cluster://127.0.0.1:1,127.0.0.1:{masters.members[2].port}") as redis:
        assert await redis.execute("SET", "k", "v") == b"OK"
        assert redis.state == "connected"
        assert redis.statistics().connections == 3


async def test_waiting_for_connections_outlasts_a_master_that_is_replaced() -> None:
    async with open_cluster() as cluster, connect(cluster.url) as redis:
        dead = redis.slot_owner(KEY) or ""
        victim = next(m for m in await cluster.masters() if dead.endswith(f":{m.port}"))
        await victim.kill()
        with trio.fail_after(FAIL_OVER):
            while redis.state == "connected":
                await redis.wait_changed()
            await redis.wait_connected()  # its link is closed meanwhile
        assert redis.slot_owner(KEY) not in {dead, None}
        assert await redis.execute("SET", KEY, "v") == b"OK"
    with pytest.raises(LinkClosedError):
        await redis.wait_connected()


async def test_a_cluster_that_comes_back_elsewhere_is_found_by_a_seed() -> None:
    seeds = free_port(), free_port()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        ports = [seeds[0], free_port(), free_port()]
        await first.enter_async_context(open_cluster(replicas=0, ports=ports))
        redis = await stack.enter_async_context(
            connect(f"redis-cluster://127.0.0.1:{seeds[0]},127.0.0.1:{seeds[1]}", max_backoff=0.1)
        )
        assert await redis.execute("SET", KEY, "v") == b"OK"
        await first.aclose()
        ports = [free_port(), seeds[1], free_port()]
        await stack.enter_async_context(open_cluster(replicas=0, ports=ports))
        with trio.fail_after(FAIL_OVER):
            assert await redis.execute("GET", KEY) is None
            assert await redis.execute("SET", KEY, "v") == b"OK"
        assert redis.slot_owner(KEY) in {f"redis://127.0.0.1:{port}" for port in ports}


async def test_a_link_whose_opening_was_cancelled_is_opened_by_the_next(
    server: EmbeddedServer,
) -> None:
    endpoint = Endpoint(host="127.0.0.1", port=server.port or 0)
    options = Options(endpoint=endpoint)
    async with open_keeper(options) as keeper:
        topology = Topology(options, (endpoint,), keeper.start)
        with trio.CancelScope() as scope:
            scope.cancel()
            await topology.link_of(endpoint)
        assert scope.cancelled_caught
        with trio.fail_after(FAIL_OVER):
            await (await topology.link_of(endpoint)).wait_connected()
        topology.close()


async def test_what_is_no_cluster(server: EmbeddedServer) -> None:
    with pytest.raises(ConnectError, match="no member of a cluster"):
        async with connect(f"redis-cluster://127.0.0.1:{server.port}"):
            pass
    with pytest.raises(UrlError, match="database 0"):
        async with connect(f"redis-cluster://127.0.0.1:{server.port}", db=1):
            pass
