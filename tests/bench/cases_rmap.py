"""The cases of maps: reading, setting from many tasks, the lag to another process, joining."""

import attrs

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_rmap"
PEER = "tests.bench.peer_rmap"
GO = "tests.bench.peer_go"
PACKAGES = ["redis", "hiredis"]

LAG = Case(
    name="rmap.lag",
    # The process that sees the changes is apart from the one that sets, as in real life. On one
    # core the kernel's choice decides whether it sees a value before or after `set` returns.
    apart=True,
    units={"p50": "ms", "p99": "ms", "call_p50": "ms", "call_p99": "ms"},
    server=True,
    ours=Contender("terzetto", f"{OURS}:measure_lag"),
    peers=[
        Contender(
            "redis.asyncio, HSET and PUBLISH",
            f"{PEER}:measure_lag",
            loop="asyncio",
            packages=PACKAGES,
        ),
        Contender("a flat program sees it (the floor)", f"{OURS}:measure_lag_floor"),
        Contender("Pulse in Go", f"{GO}:measure_lag"),
    ],
    goals={"Pulse in Go": 1.0, "Pulse in Go p99": 1.0},
)

CASES = [
    Case(
        name="rmap.read",
        units={"item": "ns", "get": "ns"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:read"),
        peers=[
            Contender("a dict (the floor)", f"{PEER}:read_dict", loop="none"),
            Contender("Pulse in Go", f"{GO}:read"),
        ],
    ),
    Case(
        name="rmap.set.100tasks",
        units={"rate": "sets/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:set_keys"),
        peers=[
            Contender(
                "redis.asyncio, the same script",
                f"{PEER}:run_set_script",
                loop="asyncio",
                packages=PACKAGES,
            ),
            Contender("Pulse in Go", f"{GO}:set_keys"),
        ],
        goals={"Pulse in Go": 1.0},
    ),
    LAG,
    attrs.evolve(LAG, name="rmap.lag.shared_core", apart=False, goals={}),
    Case(
        name="rmap.join.100000keys",
        units={"time": "ms", "memory": "B/key"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:join_large"),
        peers=[
            Contender("terzetto, a bare HGETALL", f"{OURS}:read_large"),
            Contender(
                "redis.asyncio, a bare HGETALL",
                f"{PEER}:read_large",
                loop="asyncio",
                packages=PACKAGES,
            ),
        ],
        goals={"terzetto, a bare HGETALL": 0.5},
    ),
]
