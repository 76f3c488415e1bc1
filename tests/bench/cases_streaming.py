"""The cases of streams: adding alone and in bulk, catching up, sharing, and end to end."""

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_streaming"
PEER = "tests.bench.peer_streaming"
GO = "tests.bench.peer_go"
PACKAGES = ["redis", "hiredis"]


def _loop(name: str, target: str) -> Contender:
    return Contender(name, f"{PEER}:{target}", loop="asyncio", packages=PACKAGES)


def _faststream(target: str) -> Contender:
    return Contender(
        "FastStream",
        f"tests.bench.peer_faststream:{target}",
        loop="asyncio",
        packages=["faststream", *PACKAGES],
    )


CASES = [
    Case(
        name="streaming.add.1task",
        units={"rate": "events/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:add_alone"),
        peers=[
            _loop("redis.asyncio", "add_alone"),
            Contender("Pulse in Go", f"{GO}:add_alone"),
        ],
    ),
    Case(
        name="streaming.add_many",
        units={"rate": "events/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:add_many"),
        peers=[_loop("redis.asyncio, a pipeline of 500", "add_many")],
    ),
    Case(
        name="streaming.reader.catch_up",
        units={"rate": "events/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:catch_up"),
        peers=[
            _loop("redis.asyncio", "catch_up"),
            Contender("Pulse in Go", f"{GO}:catch_up"),
        ],
    ),
    Case(
        name="streaming.sink.acks",
        units={"rate": "events/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:acknowledge"),
        peers=[
            _loop("redis.asyncio, one by one", "acknowledge_each"),
            _loop("redis.asyncio, in hundreds", "acknowledge_hundreds"),
            Contender("Pulse in Go", f"{GO}:acknowledge"),
            _faststream("acknowledge"),
        ],
        goals={
            "redis.asyncio, one by one": 5.0,
            "redis.asyncio, in hundreds": 0.8,
            "Pulse in Go": 1.0,
        },
    ),
    Case(
        name="streaming.sink.acks.2processes",
        units={"rate": "events/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:share_sink"),
        peers=[
            Contender("redis.asyncio, in hundreds", f"{OURS}:share_group", packages=PACKAGES),
        ],
    ),
    Case(
        name="streaming.end_to_end.1000_a_second",
        units={"p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:end_to_end"),
        peers=[
            _loop("redis.asyncio", "end_to_end"),
            Contender("Pulse in Go", f"{GO}:end_to_end"),
            _faststream("end_to_end"),
        ],
    ),
]
