"""The link's cases: commands of many tasks over one client."""

from tests.bench.harness import Case, Contender

CASES = [
    Case(
        name="redis.xadd.100tasks",
        units={"rate": "events/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", "tests.bench.ours_redis:add_events"),
        peers=[
            Contender(
                "redis.asyncio",
                "tests.bench.peer_redis:add_events",
                loop="asyncio",
                packages=["redis", "hiredis"],
            ),
            Contender(
                "redis-benchmark -P 100 (the ceiling)",
                "tests.bench.peer_redis:benchmark_adds",
                loop="none",
            ),
        ],
        goals={"redis.asyncio": 8.0},
    )
]
