"""The model of Redis that pools are simulated with says what a real server says."""

from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Any, Final, TypeAlias, cast

import pytest

from terzetto.pool import _scripts
from terzetto.pool._codec import JobBody, encode_job
from terzetto.pool._names import Names
from terzetto.redis import Redis
from terzetto.rmap import content_key, updates_channel
from terzetto.streaming import stream_key
from tests.pool.sim_redis import Keyspace
from tests.pool.sim_world import word

NAMES: Final = Names("p")
STREAM: Final = stream_key(NAMES.stream)
NODE_STREAM: Final = stream_key(NAMES.node_stream("you"))
KEYS: Final = ("a", "b/c", 'd"é', "e,f")
WORKERS: Final = ("W1", "W2")
CONSUMERS: Final = ("me", "you")
FIXED: Final = "1700000000000000000"  # a time that both sides are given
Call: TypeAlias = tuple[Any, Sequence[str], Sequence[object]]  # a script or a command's name
FAR: Final = "999999999999"  # us: what is guarded or kept is so for the whole test


def maps(*names: str) -> list[str]:
    return [content_key(name) for name in names]


def channels(*names: str) -> list[str]:
    return [updates_channel(name) for name in names]


class Story:
    """Calls of scripts and commands, by chance, as nodes make them."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.tokens: list[tuple[str, str]] = []

    def next(self) -> Call:
        """Return a script or the name of a command, its keys, and its arguments."""
        calls = [self.claim, self.claim, self.claim, self.ledger, self.ledger, self.ledger]
        calls += [self.bury, self.enlist, self.retire, self.discharge, self.orphans, self.adopt]
        calls += [self.tick, self.forget, self.guards, self.shutdown, self.command, self.command]
        return self.chance.choice(calls)()

    def key(self) -> str:
        return self.chance.choice(KEYS)

    def worker(self) -> str:
        return self.chance.choice(WORKERS)

    def own(self, what: str) -> str:
        return f"terzetto:pool:p:{what}"

    def claim(self) -> Call:
        released = [each for each in self.tokens if self.chance.random() < 0.3]
        numbers = [self.chance.randrange(30) for _ in range(self.some())]
        claims = [(f"claim:{number}", KEYS[number % len(KEYS)]) for number in numbers]
        acks = [f"entry {self.chance.randrange(60)}" for _ in range(self.some())]
        self.tokens += claims
        told = (NAMES.payloads, NAMES.pending, NAMES.jobs)
        keys = [*maps(*told, NAMES.workers, NAMES.shutdown), STREAM]
        keys += [self.own(token) for token, _ in [*released, *claims]]
        limit = self.chance.choice([0, 3, 50])
        args = [*channels(*told), FAR, limit, "events", len(acks), len(released)]
        args += [*acks, *(key for _, key in released)]
        for _, key in claims:
            worker = self.chance.choice(["", self.worker()])
            body = encode_job(JobBody(key, "me", b"payload of " + key.encode(), 1))
            args += [key, body, worker, self.chance.choice([FIXED, "other"]) if worker else ""]
            args += [self.chance.choice(["me", "nobody"]) if worker else ""]
            args += [self.chance.choice([0, len(keys) + 1, len(keys) + 2])]
        return _scripts.CLAIM, [*keys, NODE_STREAM, "pulse:stream:absent"], args

    def some(self) -> int:
        return self.chance.randrange(3)

    def ledger(self) -> Call:
        worker = self.worker()
        names = (NAMES.workers, NAMES.jobs, NAMES.payloads)
        keys = [*maps(*names), STREAM, *maps(NAMES.dead_letters, NAMES.pending)]
        told = (NAMES.jobs, NAMES.payloads, NAMES.dead_letters, NAMES.pending)
        changes: list[object] = []
        for _ in range(self.chance.randint(1, 3)):
            kind = self.chance.choice(["own", "own", "end", "keep", "fine", "requeue", "bury"])
            more = ""
            if kind == "own":
                more = self.chance.choice(["", *WORKERS])
            elif kind in {"end", "requeue", "bury"}:
                more = self.chance.choice(["", f"entry {self.chance.randrange(60)}"])
            changes += [kind, self.key(), b"\x00payload\xff", more]
        args = [*channels(*told), worker, FIXED, 3, "events", *changes]
        return _scripts.LEDGER, [*keys, self.own("failures")], args

    def bury(self) -> Call:
        names = (NAMES.workers, NAMES.worker_keepalive, NAMES.cleanup, NAMES.jobs)
        sign, limit = self.chance.choice([FIXED, "other"]), self.chance.choice([1, 100])
        args = [*channels(*names), self.worker(), sign, "", "me", b"\x01" * 8, limit]
        return _scripts.BURY, [*maps(*names, NAMES.payloads), STREAM, self.own("homes")], args

    def enlist(self) -> Call:
        worker = self.worker()
        field = self.chance.choice([NAMES.workers, NAMES.worker_keepalive])
        if self.chance.random() < 0.3:
            return "HSET", [self.own("homes")], [worker, "me mine"]
        return "HSET", [content_key(field)], [worker, FIXED]

    def retire(self) -> Call:
        args = [*channels(NAMES.workers), self.worker(), FIXED]
        return _scripts.RETIRE, maps(NAMES.workers), args

    def discharge(self) -> Call:
        names = (NAMES.workers, NAMES.worker_keepalive, NAMES.cleanup, NAMES.jobs)
        still = [self.key() for _ in range(self.some())]
        keys = [*maps(*names), self.own("homes")]
        return _scripts.DISCHARGE, keys, [*channels(*names), self.worker(), *still]

    def orphans(self) -> Call:
        keys = [*maps(NAMES.jobs, NAMES.payloads, NAMES.pending), self.own("orphans")]
        return _scripts.ORPHANS, keys, [self.chance.choice(["me", "you"]), 600_000, 10]

    def adopt(self) -> Call:
        keys = [*maps(NAMES.jobs, NAMES.payloads, NAMES.pending), STREAM]
        return _scripts.ADOPT, keys, [*channels(NAMES.pending), self.key(), "me", b"\x01" * 8, FAR]

    def tick(self) -> Call:
        seen, after, token = (str(self.chance.randrange(3)) for _ in range(3))
        if self.chance.random() < 0.3:
            return "HSET", maps(NAMES.tickers), ["t", seen]
        keys = [*maps(NAMES.tickers), self.own("ticks")]
        return _scripts.TICK, keys, [*channels(NAMES.tickers), "t", seen, after, token]

    def forget(self) -> Call:
        args = [*channels(NAMES.dead_letters), self.key(), ""]
        return _scripts.FORGET, maps(NAMES.dead_letters), args

    def guards(self) -> Call:
        if self.chance.random() < 0.5:
            value = self.chance.choice([FIXED, "no time", ""])
            return "HSET", maps(NAMES.pending), [self.key(), value]
        keys = [*maps(NAMES.pending, NAMES.workers), self.own("homes")]
        return _scripts.GUARDS, keys, channels(NAMES.pending)

    def shutdown(self) -> Call:
        names = (NAMES.node_keepalive, NAMES.shutdown, NAMES.workers, NAMES.jobs, NAMES.payloads)
        if self.chance.random() < 0.7:
            return "HSET", maps(NAMES.node_keepalive), [self.chance.choice(CONSUMERS), FIXED]
        if self.chance.random() < 0.5:
            return _scripts.SHUTDOWN, maps(NAMES.shutdown), [*channels(NAMES.shutdown), "me"]
        return _scripts.WIPE, [*maps(*names), STREAM], ["me", *channels(*names)]

    def command(self) -> Call:
        consumer = self.chance.choice(CONSUMERS)
        commands: list[Call] = [
            ("XGROUP", ["CREATECONSUMER", STREAM], ["events", consumer]),
            ("XREADGROUP", [], self.reading(consumer)),
            ("XADD", [STREAM], ["*", "n", "s", "p", "x"]),
            ("XLEN", [NODE_STREAM], []),
            ("HGET", [self.own("homes")], [self.worker()]),
            ("XGROUP", ["DELCONSUMER", STREAM], ["events", consumer]),
            ("XADD", ["pulse:stream:absent"], ["NOMKSTREAM", "*", "n", "s", "p", "x"]),
            ("HEXISTS", maps(NAMES.payloads), [self.key()]),
            ("HGET", maps(NAMES.payloads), [self.key()]),
            ("EXISTS", [STREAM], []),
            ("DEL", maps(NAMES.cleanup), []),
        ]
        return self.chance.choice(commands)

    def reading(self, consumer: str) -> list[object]:
        return ["GROUP", "events", consumer, "COUNT", 2, "STREAMS", STREAM, ">"]


class Real:
    """The server: what it says, with the ids of entries by number."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.ids = Ids()

    async def run(self, what: Any, keys: Sequence[str], args: Sequence[object]) -> object:  # noqa: ANN401 - a script or a name
        try:
            args = self.ids.meant(args)
            if isinstance(what, str):
                return self.ids.named(plain(await self.redis.execute(what, *keys, *args)))  # type: ignore[arg-type] # words of either kind
            reply = await self.redis.run_script(what, keys=keys, args=args)  # type: ignore[arg-type] # likewise
        except Exception as error:  # noqa: BLE001 - compared by its code
            return str(error).split()[0]
        return self.ids.named(plain(reply))


class Model:
    """The model, likewise."""

    def __init__(self, now_us: int) -> None:
        self.calls = count()
        # Each look at the clock a millisecond later, so that ids are never seen twice.
        self.data = Keyspace(lambda: now_us + next(self.calls) * 1000)
        self.ids = Ids()

    def run(self, what: Any, keys: Sequence[str], args: Sequence[object]) -> object:  # noqa: ANN401 - likewise
        words = [*map(word, keys)], [*map(word, self.ids.meant(args))]
        try:
            if isinstance(what, str):
                name = "delete" if what == "DEL" else what
                return self.ids.named(self.data.call(name.encode(), *words[0], *words[1]))
            reply = self.data.run(what.source, *words)
        except Exception as error:  # noqa: BLE001 - compared by its code
            return str(error).split()[0]
        return self.ids.named(reply)


class Ids:
    """Gives ids of entries, and times, the names that they have in both worlds."""

    def __init__(self) -> None:
        self.known: dict[bytes, str] = {}

    def meant(self, args: Sequence[object]) -> Sequence[object]:
        """Return arguments with the ids that are meant by names of entries."""
        ids = {name: entry_id for entry_id, name in self.known.items()}
        return [
            ids.get(arg, b"1-1") if isinstance(arg, str) and arg.startswith("entry ") else arg
            for arg in args
        ]

    def named(self, reply: Any) -> object:  # noqa: ANN401 - whatever a server says
        if isinstance(reply, list):
            return [self.named(item) for item in cast("list[object]", reply)]
        if isinstance(reply, bytes):
            ms, dash, sequence = reply.partition(b"-")
            if dash and ms.isdigit() and sequence.isdigit():
                return self.known.setdefault(reply, f"entry {len(self.known)}")
            if reply.isdigit() and len(reply) == 19 and reply != FIXED.encode():
                return "a time"
        return True if reply in (b"OK", "OK") else reply


def plain(reply: Any) -> object:  # noqa: ANN401 - likewise
    """Return a reply without the types of RESP3."""
    if isinstance(reply, dict):
        return [
            [plain(part) for part in pair] for pair in cast("dict[object, object]", reply).items()
        ]
    if isinstance(reply, list | tuple):
        return [plain(item) for item in cast("list[object]", reply)]
    return reply


async def contents(redis: Redis) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in await redis.execute("KEYS", "map:*"):
        found[key.decode()] = sorted(dict(await redis.execute("HGETALL", key)).items())
    return found


def stable(content: Sequence[tuple[bytes, bytes]], ids: Ids) -> list[object]:
    return [(key, ids.named(value)) for key, value in content]


@pytest.mark.parametrize("seed", range(6))
async def test_the_model_says_what_redis_says(redis: Redis, seed: int) -> None:
    story = Story(Random(seed))  # noqa: S311 - to be repeated
    seconds, micros = await redis.execute("TIME")
    real, model = Real(redis), Model(int(seconds) * 1_000_000 + int(micros))
    made = ["CREATE", NODE_STREAM], ["nobody", "$", "MKSTREAM"]  # a node that may be told
    assert model.run("XGROUP", *made) == await real.run("XGROUP", *made)
    for number in range(400):
        what, keys, args = story.next()
        name = what if isinstance(what, str) else what.name
        expected = await real.run(what, keys, args)
        assert model.run(what, keys, args) == expected, f"{number}: {name} {keys} {args}"
    expected_maps = await contents(redis)
    modelled = {
        key.decode(): sorted(content.items())
        for key, content in model.data.hashes.items()
        if key.startswith(b"map:")
    }
    assert modelled.keys() == expected_maps.keys()
    for key, content in modelled.items():
        assert stable(content, model.ids) == stable(expected_maps[key], real.ids), key  # type: ignore[arg-type] # pairs


async def test_the_model_tells_who_has_an_entry_as_redis_does(redis: Redis) -> None:
    """A claim that is asked again asks; stories come to that too seldom."""
    real, model = Real(redis), Model(1_700_000_000_000_000)
    told = (NAMES.payloads, NAMES.pending, NAMES.jobs)
    body = encode_job(JobBody("a", "me", b"", 1))
    claim: Call = (
        _scripts.CLAIM,
        [*maps(*told, NAMES.workers, NAMES.shutdown), STREAM, "terzetto:pool:p:claim:1"],
        [*channels(*told), FAR, 0, "events", 0, 0, "a", body, "W1", FIXED, "me", 0],
    )
    asked: list[Call] = [
        ("XPENDING", [STREAM], ["events", entry_id, entry_id, 1, consumer])
        for entry_id in ("entry 0", "entry 1")
        for consumer in ("me", "you", "")
    ]
    calls: list[Call] = [
        asked[0],
        ("XGROUP", ["CREATE", STREAM], ["events", "$", "MKSTREAM"]),
        *(("XGROUP", ["CREATECONSUMER", STREAM], ["events", each]) for each in CONSUMERS),
        *(claim, claim, *asked),
        ("XACK", [STREAM], ["events", "entry 0"]),
        *(claim, *asked),
    ]
    claims: list[object] = []
    for what, keys, args in calls:
        reply, expected = model.run(what, keys, args), await real.run(what, keys, args)
        if what == "XPENDING":
            reply, expected = untimed(reply), untimed(expected)
        elif what is _scripts.CLAIM:
            claims.append(expected)
        assert reply == expected, f"{what} {args}"
    assert claims == [[[4, "entry 0"]], [[4, "entry 0"]], [[1, "entry 0"]]]


def untimed(reply: Any) -> object:  # noqa: ANN401 - whatever a server says
    """Return what XPENDING says of entries, without for how long."""
    if not isinstance(reply, list):
        return reply
    entries = cast("list[list[object]]", reply)
    return [[entry_id, consumer, count] for entry_id, consumer, _, count in entries]
