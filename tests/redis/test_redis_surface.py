"""Every method of redis-py's `AsyncCoreCommands` answers as redis-py itself does.

The test walks the class, makes up arguments by their names, and runs each call
twice on the same data: over the link, and with redis-py's blocking client on
RESP3. Both must give the same value, or the same error reply. No event loop of asyncio
may be made meanwhile, whatever redis-py imports.
"""

import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import redis as redis_py
import trio
from redis.commands import AsyncCoreCommands
from redis.exceptions import RedisError

from terzetto.redis import Redis, WrongLinkError, connect
from terzetto.server import EmbeddedServer
from tests.redis.scripted import PATIENCE

SKIPPED = {
    "bgrewriteaof": "starts work on the server",
    "bgsave": "starts work on the server",
    "client_kill": "ends connections",
    "client_kill_filter": "ends connections",
    "client_pause": "stops the server for all",
    "client_reply": "takes replies away; refused, as another test says",
    "client_tracking": "is about a connection",
    "client_tracking_off": "is about a connection",
    "client_tracking_on": "is about a connection",
    "client_tracking_options": "is about a connection",
    "client_unpause": "is about client_pause",
    "config_rewrite": "writes the server's file",
    "debug_segfault": "ends the server",
    "execute_command": "is what all the others call",
    "failover": "ends the server's role",
    "flushall": "is what makes the data anew",
    "monitor": "refused, as another test says",
    "psync": "refused, as another test says",
    "register_script": "has a test of its own",
    "replicaof": "ends the server's role",
    "reset": "refused, as another test says",
    "save": "writes the server's file",
    "select": "refused, as another test says",
    "shutdown": "ends the server",
    "slaveof": "ends the server's role",
    "sync": "refused, as another test says",
}

# Replies that differ from one call to the next: only their type is compared.
VOLATILE = {
    "acl_genpass", "bitfield", "role",
    "acl_log", "client_getredir", "client_id", "client_info", "client_list",
    "command", "dbsize", "debug_object", "hotkeys_get", "hrandfield", "info", "lastsave",
    "latency_latest", "lolwut", "memory_malloc_stats", "memory_stats", "memory_usage",
    "object", "randomkey", "slowlog_get", "slowlog_len", "srandmember", "time", "xadd",
    "xinfo_consumers", "xinfo_stream", "zrandmember", "function_stats", "function_dump",
    "client_trackinginfo", "config_get", "acl_getuser", "spop", "zscan", "pttl",
    "pexpiretime", "xautoclaim", "xclaim", "xpending", "xpending_range", "lcs",
    "client_getname", "waitaof", "dump", "smembers",
    "hpttl", "sdiff", "sinter", "sunion", "scan", "sscan", "hscan", "hpexpiretime", "hgetall",
    "xinfo_groups", "command_list", "acl_cat", "memory_purge",
}  # fmt: skip  # one name a line would be pages

# Lists whose order is the server's own, and may change while it makes its table larger.
UNORDERED = {"keys", "scan_iter"}

NAMED: dict[str, Any] = {
    "name": "string", "key": "string", "k": "string", "src": "list", "dst": "list2",
    "source": "string", "destination": "target", "dest": "target", "names": ["string"],
    "keys": ["string"], "keyname": "string", "first_list": "list", "second_list": "list2",
    "num": 1, "numkeys": 1, "num_keys": 1, "count": 2, "start": 0, "end": -1, "stop": -1,
    "offset": 0, "amount": 1, "index": 0, "timeout": 0.01, "min": 0, "max": 9, "withscores": True,
    "mapping": {"one": 1}, "streams": {"stream": "0"}, "fields": ["one"], "field": "one",
    "script": "return 1", "sha": "0" * 40, "groupname": "group", "consumername": "me",
    "consumer_name": "me", "id": "0-1", "message_id": "0-1", "ids": ["0-1"],
    "message_ids": ["0-1"], "min_idle_time": 0, "operation": "AND", "seconds": 100,
    "milliseconds": 100_000, "ttl": 0, "time": 100, "when": 9_999_999_999, "direction": "LEFT",
    "longitude": 15, "latitude": 37, "radius": 100, "unit": "km", "member": "a", "member1": "a",
    "member2": "b", "values": ["1"], "value": "1", "pattern": "*", "channel": "channel",
    "message": "hello", "user": "nobody", "username": "nobody", "category": "read",
    "section": "server", "section_name": "server", "host": "127.0.0.1", "port": 1, "db": 1,
    "libraryname": "none", "library_name": "none", "function": "none", "bit": 1, "score": 1.5,
    "args": [], "payload": b"", "infotype": "ENCODING", "lcs": True, "pivot": "1", "refvalue": "1",
    "where": "BEFORE", "places": [15, 37, "x"], "entries_added": None, "attr": "LIB-NAME",
    "client_id": 0, "lfield": "one", "idle": 0, "keys_and_args": [],
}  # fmt: skip  # one name a line would be pages

# Methods whose arguments' names say too little: key of the right kind and so on.
SPECIAL: dict[str, tuple[Any, ...]] = {
    "bitop": ("AND", "target", "string"),
    "blmove": ("list", "list2", 0.01),
    "blmpop": (0.01, 1, "list"),
    "brpoplpush": ("list", "list2", 0.01),
    "bzpopmax": (["zset"], 0.01),
    "bzpopmin": (["zset"], 0.01),
    "bzmpop": (0.01, 1, ["zset"]),
    "client_setinfo": ("LIB-NAME", "x"),
    "command_getkeys": ("GET", "k"),
    "command_getkeysandflags": ("GET", "k"),
    "config_set": ("maxmemory", "100mb"),
    "eval": ("return KEYS[1]", 1, "string"),
    "eval_ro": ("return KEYS[1]", 1, "string"),
    "geodist": ("geo", "a", "b"),
    "georadius": ("geo", 15, 37, 500),
    "hset": ("hash", "two", 2),
    "lmpop": (1, "list"),
    "msetex": ({"one": 1},),
    "restore": ("target", 0, b""),
    "script_exists": ("0" * 40,),
    "set": ("string", "x"),
    "sort": ("list",),
    "sort_ro": ("list",),
    "xadd": ("stream", {"f": "v"}),
    "xreadgroup": ("group", "me", {"stream": ">"}),
    "zadd": ("zset", {"c": 3}),
    "zinter": (["zset"],),
    "zmpop": (1, ["zset"]),
    "zmscore": ("zset", ["a"]),
    "zunion": (["zset"],),
}
KEYWORDS: dict[str, dict[str, Any]] = {
    "blmpop": {"direction": "LEFT"},
    "bzmpop": {"min": True},
    "geosearch": {"member": "a", "radius": 100, "unit": "km"},
    "geosearchstore": {"member": "a", "radius": 100, "unit": "km"},
    "lmpop": {"direction": "LEFT"},
    "zmpop": {"min": True},
}
KINDS = [("x", "stream"), ("z", "zset"), ("geo", "geo"), ("h", "hash"), ("pf", "log")]
LISTS = re.compile(r"^[blr]?[lr](push|pop|len|range|index|insert|rem|set|trim|pos|move)|^b[lr]")
SETS = re.compile(
    r"^s(add|card|diff|inter|ismember|mismember|members|move|pop|rand|rem|union|scan)"
)


async def fill(redis: Redis) -> None:
    """Make the data anew: a key of each type, named after it."""
    await redis.execute_many(
        [
            ("FLUSHALL",),
            ("FUNCTION", "FLUSH"),
            ("SCRIPT", "FLUSH"),
            ("SET", "string", "text"),
            ("RPUSH", "list", 1, 2, 3),
            ("SADD", "set", "a"),
            ("HSET", "hash", "one", 1),
            ("ZADD", "zset", 1, "a", 2, "b"),
            ("XADD", "stream", "0-1", "f", "v"),
            ("XGROUP", "CREATE", "stream", "group", "0"),
            ("GEOADD", "geo", 15, 37, "a", 15.1, 37, "b"),
            ("PFADD", "log", "a"),
            ("ACL", "LOG", "RESET"),
        ]
    )


def key_for(method: str) -> str:
    if LISTS.match(method):
        return "list"
    if SETS.match(method):
        return "set"
    return next((key for start, key in KINDS if method.startswith(start)), "string")


def arguments(method: str, function: Callable[..., object]) -> list[Any]:
    """Make up arguments for a method, by the names of its parameters."""
    if method in SPECIAL:
        return list(SPECIAL[method])
    made: list[Any] = []
    key = key_for(method)
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        given = NAMED.get(parameter.name, "1")
        if given == "string":
            given = key
        elif given == ["string"]:
            given = [key]
        if parameter.kind is parameter.VAR_POSITIONAL:
            made += given if isinstance(given, list) else [given]
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            made.append(given)
    return made


@attrs.frozen
class Refused:
    """A call that ended in an error: its type and its text."""

    kind: type[Exception]
    text: str


async def outcome(client: object, method: str) -> Any:  # noqa: ANN401 - each command has its own shape
    """Return what a method of a client gives in the end, an error too."""
    args = arguments(method, getattr(AsyncCoreCommands, method))
    try:
        result: Any = getattr(client, method)(*args, **KEYWORDS.get(method, {}))
        if inspect.isasyncgen(result):
            return [item async for item in result]
        if inspect.isgenerator(result):
            return list(result)
        return await result if inspect.isawaitable(result) else result
    except (RedisError, NotImplementedError, ValueError, AttributeError) as error:
        return Refused(type(error), str(error))


def are_same(method: str, ours: Any, theirs: Any) -> bool:  # noqa: ANN401 - each command has its own shape
    """Compare what a method gave, as far as it gives the same twice."""
    if method in VOLATILE:
        return type(ours) is type(theirs)
    if method in UNORDERED:
        return sorted(ours) == sorted(theirs)
    return bool(ours == theirs)


METHODS = sorted(
    name
    for name in dir(AsyncCoreCommands)
    if not name.startswith("_")
    and callable(getattr(AsyncCoreCommands, name))
    and name not in SKIPPED
)


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "str"])
@pytest.mark.filterwarnings("ignore:Call to experimental method")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_every_method_answers_as_in_redis_py(
    server: EmbeddedServer,
    decode: bool,  # noqa: FBT001 - pytest's
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an event loop of asyncio is made")

    monkeypatch.setattr(asyncio.BaseEventLoop, "__init__", refuse)
    theirs = redis_py.Redis(
        unix_socket_path=str(server.socket_path),
        protocol=3,
        legacy_responses=False,
        decode_responses=decode,
    )
    different: dict[str, tuple[object, object]] = {}
    answered = 0
    try:
        async with connect(server.url, decode_replies=decode) as redis:
            for method in METHODS:
                await fill(redis)
                with trio.fail_after(PATIENCE):
                    ours = await outcome(redis, method)
                if isinstance(ours, Refused) and ours.kind is WrongLinkError:
                    continue
                await fill(redis)
                other = await outcome(theirs, method)
                answered += not isinstance(other, Refused)
                if not are_same(method, ours, other):
                    different[method] = ours, other
    finally:
        theirs.close()
    assert different == {}
    assert answered > 150


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "str"])
async def test_the_slow_log_is_answered_as_in_redis_py(
    server: EmbeddedServer,
    decode: bool,  # noqa: FBT001 - pytest's
) -> None:
    async with connect(server.url, decode_replies=decode) as redis:
        await redis.execute("CONFIG", "SET", "slowlog-log-slower-than", 0)
        await redis.execute("SET", "k", b"\xff")
        await redis.execute("CONFIG", "SET", "slowlog-log-slower-than", -1)
        ours = await outcome(redis, "slowlog_get")
    with redis_py.Redis(
        unix_socket_path=str(server.socket_path),
        protocol=3,
        legacy_responses=False,
        decode_responses=decode,
    ) as theirs:
        assert ours == await outcome(theirs, "slowlog_get")
    assert b"SET k \xff" in [entry["command"] for entry in ours]


async def test_a_name_in_two_words_is_answered_as_one(redis: Redis) -> None:
    await redis.execute("XADD", "s", "0-1", "f", "v")
    for name, *args in [
        ("CONFIG GET", "maxmemory"),
        ("CLIENT LIST",),
        ("ACL WHOAMI",),
        ("COMMAND COUNT",),
        ("XINFO STREAM", "s"),
        ("MEMORY USAGE", "s"),
        ("OBJECT ENCODING", "s"),
        ("CLIENT ID",),
        ("SCRIPT EXISTS", "0" * 40),
        ("SLOWLOG LEN",),
    ]:
        one = await redis.execute_command(name, *args)
        two = await redis.execute_command(*name.split(), *args)
        assert type(one) is type(two)
        if name not in {"CLIENT LIST", "CLIENT ID"}:
            assert one == two


async def test_methods_that_no_shared_link_can_carry_say_what_to_do(redis: Redis) -> None:
    for args in [("AUTH", "x"), ("SELECT", 1), ("WAIT", 1, 10)]:
        with pytest.raises(WrongLinkError, match=r"connect\(\)|open_dedicated"):
            await redis.execute_command(*args)


async def test_what_would_change_the_connection_of_others_is_refused(redis: Redis) -> None:
    calls = [
        redis.execute("CLIENT", "SETNAME", "x"),
        redis.execute("CLIENT", "NO-TOUCH", "ON"),
        redis.execute("CLIENT", "TRACKING", "ON"),
        redis.execute("CLIENT", "CACHING", "YES"),
        redis.client_setname("x"),  # pyright: ignore[reportUnknownMemberType] - redis-py leaves it untyped
        redis.client_no_evict("ON"),
        redis.client_no_touch("ON"),
        redis.client_tracking_on(),
    ]
    for call in calls:
        with pytest.raises(WrongLinkError, match=r"^CLIENT .* cannot go over a shared link: "):
            await call
    with pytest.raises(WrongLinkError):
        await redis.execute_many([("GET", "k"), ("CLIENT", "SETNAME", "x")])
    assert not await redis.execute("CLIENT", "GETNAME")
    async with redis.open_dedicated("own") as dedicated:
        await dedicated.execute("CLIENT", "SETNAME", "own")
        assert await dedicated.execute("CLIENT", "GETNAME") == b"own"
