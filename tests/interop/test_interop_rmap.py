"""One map, joined by Go's Pulse and by us: each side does everything, the other sees it."""

import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio

from terzetto import rmap
from terzetto.redis import Redis
from tests.interop.gomap import PATIENCE, GoMap, join_go, wait_for
from tests.interop.gopeer import Peer, PeerRefusedError

Do = Callable[..., Awaitable[Any]]
BYTES = "caf\xe9 \udcff\udc80 \U0001f600 / \\ \x7f \n"  # any bytes, some of them not UTF-8

# Operation, arguments, result, and what the map holds then, on both sides.
STEPS: list[tuple[str, tuple[Any, ...], Any, dict[str, str]]] = [
    ("set", ("a", "1"), None, {"a": "1"}),
    ("set", ("a", ""), "1", {"a": ""}),
    ("set", ("a", "2"), "", {"a": "2"}),
    ("set_and_wait", ("a", "3"), "2", {"a": "3"}),
    ("set_if_absent", ("a", "4"), False, {"a": "3"}),
    ("set_if_absent", ("b", BYTES), True, {"a": "3", "b": BYTES}),
    ("test_and_set", ("a", "x", "5"), ["3", False], {"a": "3", "b": BYTES}),
    ("test_and_set", ("c", "x", "5"), [None, False], {"a": "3", "b": BYTES}),
    ("test_and_set", ("a", "3", "5"), ["3", True], {"a": "5", "b": BYTES}),
    ("increment", ("a", 2), 7, {"a": "7", "b": BYTES}),
    ("increment", ("a", -8), -1, {"a": "-1", "b": BYTES}),
    ("delete", ("a",), "-1", {"b": BYTES}),
    ("delete", ("a",), None, {"b": BYTES}),
    ("test_and_delete", ("b", "x"), [BYTES, False], {"b": BYTES}),
    ("test_and_delete", ("c", "x"), [None, False], {"b": BYTES}),
    ("test_and_delete", ("b", BYTES), [BYTES, True], {}),
    ("append_values", ("l", "é/", "é/"), ["é/", "é/"], {"l": r'["é\/","é\/"]'}),
    ("append_unique_values", ("l", "é/", "b"), ["é/", "é/", "b"], {"l": r'["é\/","é\/","b"]'}),
    ("remove_values", ("l", "é/", "z"), [["b"], True], {"l": '["b"]'}),
    ("remove_values", ("l", "z"), [["b"], False], {"l": '["b"]'}),
    ("remove_values", ("l", "b"), [[], True], {}),
    ("set", ("a", "1"), None, {"a": "1"}),
    ("set", ("b", "2"), None, {"a": "1", "b": "2"}),
    ("test_and_reset", (["a", "b"], ["1", "1"]), False, {"a": "1", "b": "2"}),
    ("test_and_reset", (["a", "b"], ["1", "2"]), True, {}),
    ("set", ("a", "1"), None, {"a": "1"}),
    ("reset", (), None, {}),
    ("set", ("a", "1"), None, {"a": "1"}),
    ("destroy", (), None, {}),
    ("set", ("a", "again"), None, {"a": "again"}),
]


def ours(config: rmap.Map) -> Do:
    async def do(name: str, *args: Any) -> Any:
        result = await getattr(config, name)(*args)
        if isinstance(result, rmap.Swap):
            return [result.previous, result.done]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - of `Any`
        return list(result) if isinstance(result, tuple) else result  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - likewise

    return do


def decode(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


async def equal_at(content: dict[str, str], config: rmap.Map, other: GoMap) -> None:
    with trio.fail_after(PATIENCE):
        await config.wait_for(lambda m: m.snapshot() == content)
    await wait_for(other.content, content)


@pytest.mark.parametrize("writer", ["go", "ours"])
async def test_every_operation_is_seen_by_the_other_side(
    redis: Redis, go: Peer, writer: str
) -> None:
    theirs = await join_go(go, "shared")
    async with rmap.join("shared", redis) as config:
        do = ours(config) if writer == "ours" else theirs.do
        for name, args, result, content in STEPS:
            assert await do(name, *args) == result, (name, args)
            await equal_at(content, config, theirs)
        # Both count the same commits: none was made twice and none for a refused condition.
        stored = await redis.execute("HGET", rmap.content_key("shared"), "=rev")
        assert stored == str(config.revision).encode()


async def test_lists_read_the_same_on_both_sides(redis: Redis, go: Peer) -> None:
    theirs = await join_go(go, "lists")
    async with rmap.join("lists", redis) as config:
        for text in ['["a","b"]', "a,b", "a", '["\\u00e9\\/"]', "", "a,,b", "[1]", '{"a": 1}']:
            await config.set_and_wait("l", text)
            await wait_for(lambda: theirs.get_values("l"), config.get_values("l"))


async def test_both_refuse_to_count_text(redis: Redis, go: Peer) -> None:
    theirs = await join_go(go, "counting")
    async with rmap.join("counting", redis) as config:
        await config.set_and_wait("k", "no number")
        revision = config.revision
        with pytest.raises(PeerRefusedError, match="not an integer"):
            await theirs.do("increment", "k", 1)
        await config.sync()
        assert (config["k"], config.revision) == ("no number", revision)


@pytest.mark.parametrize("first", ["go", "ours"])
async def test_an_absolute_ttl_is_the_first_writers(redis: Redis, go: Peer, first: str) -> None:
    theirs = await join_go(go, "brief", ttl=100)
    async with rmap.join("brief", redis, ttl=50) as config:
        do = [ours(config), theirs.do]
        if first == "go":
            do.reverse()
        await do[0]("set", "a", "1")
        await do[1]("set", "b", "2")
        left = await redis.execute("TTL", rmap.content_key("brief"))
        assert isinstance(left, int)
        assert 0 < left <= 50 if first == "ours" else 50 < left <= 100


@pytest.mark.parametrize("last", ["go", "ours"])
async def test_a_sliding_ttl_starts_anew_with_each_sides_writes(
    redis: Redis, go: Peer, last: str
) -> None:
    theirs = await join_go(go, "sliding", ttl=100, sliding=True)
    async with rmap.join("sliding", redis, ttl=50, sliding=True) as config:
        do = [theirs.do, ours(config)]
        if last == "go":
            do.reverse()
        await do[0]("set", "a", "1")
        await do[1]("set", "b", "2")
        left = await redis.execute("TTL", rmap.content_key("sliding"))
        assert isinstance(left, int)
        assert 0 < left <= 50 if last == "ours" else 50 < left <= 100


async def test_after_an_expiry_we_follow_and_a_go_replica_keeps_the_old(
    redis: Redis, go: Peer
) -> None:
    # Go looks at the hash only when it joins or its subscription broke, so a map that
    # expired lives on in it; what joins then sees the truth.
    theirs = await join_go(go, "gone", ttl=1)
    async with rmap.join("gone", redis, poll_interval=0.1) as config:
        await theirs.do("set", "a", "1")
        with trio.fail_after(PATIENCE):
            await config.wait_for(lambda m: m.get("a") == "1")
            await config.wait_for(lambda m: not m)
        assert await theirs.content() == {"a": "1"}
        again = await join_go(go, "gone", on="again")
        assert await again.content() == {}


async def test_each_kind_of_change_is_told_to_the_other_side(redis: Redis, go: Peer) -> None:
    theirs = await join_go(go, "told")
    await go.call("map.subscribe", "changes", **{"in": theirs.on})

    async def told() -> Any:
        return await go.call("map.changes", "changes")

    kinds = {"set": rmap.Change.SET, "delete": rmap.Change.DELETE, "reset": rmap.Change.RESET}
    steps: list[tuple[str, tuple[str, ...], str]] = [
        *[("set", ("a", "1"), "set"), ("delete", ("a",), "delete"), ("reset", (), "reset")],
        *[("append_values", ("l", "x"), "set"), ("remove_values", ("l", "x"), "delete")],
        *[("increment", ("n", "1"), "set"), ("destroy", (), "reset")],
    ]
    async with rmap.join("told", redis) as config, config.subscribe() as changes:
        expected: list[str] = []
        for do in (theirs.do, ours(config)):
            for name, args, kind in steps:
                await do(
                    name, *(int(arg) if arg == "1" and name == "increment" else arg for arg in args)
                )
                expected.append(kind)
                with trio.fail_after(PATIENCE):
                    assert await anext(changes) is kinds[kind]
                await wait_for(told, expected)


@pytest.mark.parametrize("destroyer", ["go", "ours"])
async def test_a_map_that_was_destroyed_is_joined_again_and_goes_on(
    redis: Redis, go: Peer, destroyer: str
) -> None:
    theirs = await join_go(go, "again")
    async with rmap.join("again", redis) as config:
        await theirs.do("set", "a", "1")
        await config.set("b", "2")
        await (config.destroy() if destroyer == "ours" else theirs.do("destroy"))
        await equal_at({}, config, theirs)
        before = config.revision
    await theirs.close()
    theirs = await join_go(go, "again", on="rejoined")
    async with rmap.join("again", redis) as config:
        assert config.revision == before  # revisions never begin again for live replicas
        await theirs.do("set", "c", "3")
        await config.set("d", "4")
        await equal_at({"c": "3", "d": "4"}, config, theirs)


async def test_a_closed_map_refuses_writes_but_reset_and_destroy(redis: Redis, go: Peer) -> None:
    theirs = await join_go(go, "closed")
    async with rmap.join("closed", redis) as config:
        await theirs.do("set", "a", "1")
        await theirs.close()
        with pytest.raises(PeerRefusedError):
            await theirs.do("set", "a", "2")
        with trio.fail_after(PATIENCE):
            await config.wait_for(lambda m: m.get("a") == "1")
        await theirs.do("reset")
        with trio.fail_after(PATIENCE):
            await config.wait_for(lambda m: not m)


async def test_a_thousand_operations_from_both_sides_end_in_equality(
    redis: Redis, go: Peer
) -> None:
    theirs = await join_go(go, "random")
    chance = random.Random(7)  # noqa: S311 - a test that can be repeated
    keys = [f"k{number}" for number in range(8)]

    def step() -> tuple[str, tuple[Any, ...]]:
        key, value, other = chance.choice(keys), *chance.sample(["", "1", "2", "é", "x/y"], 2)
        lists, number = f"l{key}", f"n{key}"
        steps: list[tuple[str, tuple[Any, ...]]] = [
            *[("set", (key, value))] * 4,
            *[("set_and_wait", (key, value)), ("set_if_absent", (key, value))],
            *[("test_and_set", (key, other, value)), ("test_and_delete", (key, value))],
            *[("delete", (key,)), ("increment", (number, 3)), ("delete", (number,))],
            *[("append_values", (lists, value, other)), ("remove_values", (lists, value))],
            ("append_unique_values", (lists, value, other)),
            ("test_and_reset", ([key, keys[0]], [value, other])),
        ]
        if chance.random() < 0.01:
            return chance.choice([("reset", ()), ("destroy", ())])
        return chance.choice(steps)

    async def run(do: Do, steps: list[tuple[str, tuple[Any, ...]]]) -> None:
        for name, args in steps:
            await do(name, *args)

    async with rmap.join("random", redis) as config:
        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                for do in (ours(config), theirs.do):
                    for _ in range(4):  # tasks on each side
                        nursery.start_soon(run, do, [step() for _ in range(125)])
        await config.set_and_wait("end", "of it")
        stored = await redis.execute("HGETALL", rmap.content_key("random"))
        assert isinstance(stored, dict)
        content = {
            decode(key): decode(value) for key, value in cast("dict[bytes, bytes]", stored).items()
        }
        assert content.pop("=rev") == str(config.revision)
        assert content.pop("=kind") == "set"
        await equal_at(content, config, theirs)
