"""The cases of the link: many tasks over one client, one task alone, a cluster, and memory."""

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_redis"
PEER = "tests.bench.peer_redis"
COREDIS = "tests.bench.peer_coredis"
PACKAGES = ["redis", "hiredis"]
LATENCIES = {"rate": "events/s", "p50": "ms", "p99": "ms"}


def redis_py(function: str) -> list[Contender]:
    """Return redis.asyncio on both of its loops."""
    target = f"{PEER}:{function}"
    return [
        Contender("redis.asyncio", target, loop="asyncio", packages=PACKAGES),
        Contender("redis.asyncio on uvloop", target, loop="uvloop", packages=[*PACKAGES, "uvloop"]),
    ]


def in_threads(function: str) -> Contender:
    """Return redis-py's blocking client in a thread for each task."""
    return Contender(
        "redis-py in 100 threads", f"{PEER}:{function}", loop="none", packages=PACKAGES
    )


def coredis(function: str) -> Contender:
    """Return coredis on trio."""
    return Contender("coredis on trio", f"{COREDIS}:{function}", packages=["coredis"])


CEILING = Contender("redis-benchmark -P 100 (the ceiling)", f"{PEER}:benchmark_adds", loop="none")
ALONE = [
    *redis_py("set_and_get"),
    coredis("set_and_get"),
    Contender("redis-py, blocking", f"{PEER}:set_and_get_plain", loop="none", packages=PACKAGES),
]

CASES = [
    Case(
        name="redis.xadd.100tasks",
        units=LATENCIES,
        server=True,
        ours=Contender("terzetto", f"{OURS}:add_events"),
        peers=[
            *redis_py("add_events"),
            coredis("add_events"),
            in_threads("add_from_threads"),
            Contender("redis-benchmark -c 100", f"{PEER}:benchmark_single_adds", loop="none"),
            CEILING,
        ],
        goals={
            "redis.asyncio": 10.0,
            "redis.asyncio p50": 8.0,
            "redis.asyncio p99": 8.0,
            CEILING.name: 0.35,
        },
    ),
    Case(
        name="streaming.add.100tasks",
        units=LATENCIES,
        server=True,
        ours=Contender("terzetto", f"{OURS}:add_to_stream"),
        peers=[
            Contender("redis.asyncio", f"{PEER}:add_fields", loop="asyncio", packages=PACKAGES),
            Contender("Pulse in Go", "tests.bench.peer_go:add_from_many"),
            CEILING,
        ],
        goals={"redis.asyncio": 8.0, "Pulse in Go": 1.0},
    ),
    Case(
        name="redis.script.100tasks",
        units={"rate": "calls/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:run_scripts"),
        peers=[
            *redis_py("run_scripts"),
            coredis("run_scripts"),
            in_threads("run_scripts_from_threads"),
        ],
        goals={"redis.asyncio": 9.0},
    ),
    Case(
        name="redis.set_get.1task",
        units={"rate": "calls/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:set_and_get"),
        peers=ALONE,
    ),
    Case(
        name="redis.set_get.1task.1core",
        units={"rate": "calls/s"},
        server=True,
        same_core=True,
        ours=Contender("terzetto", f"{OURS}:set_and_get"),
        peers=ALONE,
        goals={"redis.asyncio": 1.5},
    ),
    Case(
        name="redis.cluster.xadd.100tasks",
        # All six servers share a core here, and each event is worked on twice: that bounds the
        # rate. What the client itself costs says what it would do beside faster servers.
        units={**LATENCIES, "cpu": "us"},
        server=True,
        cluster=True,
        turns=8,
        ours=Contender("terzetto", f"{OURS}:add_in_cluster"),
        peers=[
            Contender("terzetto on a single server", f"{OURS}:add_to_one_server"),
            Contender("redis.asyncio", f"{PEER}:add_in_cluster", loop="asyncio", packages=PACKAGES),
            # As many requests under way as 100 tasks have: more is not to be had of the servers.
            Contender(
                "redis-benchmark --cluster -c 3 -P 33 (the ceiling)",
                f"{PEER}:benchmark_cluster_adds",
                loop="none",
            ),
        ],
        goals={"terzetto on a single server": 0.7, "terzetto on a single server cpu": 0.7},
    ),
    Case(
        name="redis.memory.10000waiting",
        # Of 10,000 requests of 200 bytes whose server is silent, beyond the tasks that wait.
        units={"memory": "MB", "with_tasks": "MB"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:hold_requests"),
    ),
]
