"""The cases of pools: dispatch alone, over the wire and from many tasks, and moving jobs."""

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_pool"
GO = "tests.bench.peer_go"

CASES = [
    Case(
        name="pool.dispatch.same_node",
        units={"p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:same_node"),
        peers=[Contender("Pulse in Go", f"{GO}:same_node")],
    ),
    Case(
        name="pool.dispatch.other_node",
        units={"p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:other_node"),
        peers=[Contender("Pulse in Go", f"{GO}:other_node")],
    ),
    Case(
        name="pool.dispatch.100tasks",
        units={"rate": "jobs/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:many_tasks"),
        peers=[Contender("Pulse in Go", f"{GO}:many_tasks")],
    ),
    Case(
        name="pool.move",
        units={"rate": "jobs/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:move"),
        peers=[],
    ),
]
