"""The cases of the link: many tasks over one client, bare and through a stream, and one alone."""

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_redis"
PEER = "tests.bench.peer_redis"
PACKAGES = ["redis", "hiredis"]

CASES = [
    Case(
        name="redis.xadd.100tasks",
        units={"rate": "events/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:add_events"),
        peers=[
            Contender("redis.asyncio", f"{PEER}:add_events", loop="asyncio", packages=PACKAGES),
            Contender(
                "redis-benchmark -P 100 (the ceiling)", f"{PEER}:benchmark_adds", loop="none"
            ),
        ],
        goals={"redis.asyncio": 8.0},
    ),
    Case(
        name="streaming.add.100tasks",
        units={"rate": "events/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:add_to_stream"),
        peers=[
            Contender("redis.asyncio", f"{PEER}:add_fields", loop="asyncio", packages=PACKAGES),
            Contender(
                "redis-benchmark -P 100 (the ceiling)", f"{PEER}:benchmark_adds", loop="none"
            ),
        ],
        goals={"redis.asyncio": 8.0},
    ),
    Case(
        name="redis.script.100tasks",
        units={"rate": "calls/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:run_scripts"),
        peers=[
            Contender("redis.asyncio", f"{PEER}:run_scripts", loop="asyncio", packages=PACKAGES),
        ],
    ),
    Case(
        name="redis.set_get.1task",
        units={"rate": "calls/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:set_and_get"),
        peers=[
            Contender("redis.asyncio", f"{PEER}:set_and_get", loop="asyncio", packages=PACKAGES),
            Contender(
                "redis-py, blocking", f"{PEER}:set_and_get_plain", loop="none", packages=PACKAGES
            ),
        ],
    ),
]
