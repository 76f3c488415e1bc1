"""The cases of pools: dispatch, notify, stop, moves, fail-over, and the cost of doing nothing."""

import attrs

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_pool"
GO = "tests.bench.peer_go"

OTHER_NODE = Case(
    name="pool.dispatch.other_node",
    # The processes are apart, as in real life: on one core the kernel's choice decides whether
    # the worker hears of a job before or after its dispatcher has looked at Redis' reply.
    apart=True,
    units={"p50": "ms", "p99": "ms"},
    server=True,
    ours=Contender("terzetto", f"{OURS}:other_node"),
    peers=[Contender("Pulse in Go", f"{GO}:other_node")],
    goals={"Pulse in Go": 1.0},
)

CASES = [
    Case(
        name="pool.dispatch.same_node",
        units={"p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:same_node"),
        peers=[Contender("Pulse in Go", f"{GO}:same_node")],
        goals={"Pulse in Go": 2.0},
    ),
    OTHER_NODE,
    attrs.evolve(OTHER_NODE, name="pool.dispatch.other_node.shared_core", apart=False, goals={}),
    Case(
        name="pool.dispatch.100tasks",
        units={"rate": "jobs/s", "p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:many_tasks"),
        peers=[Contender("Pulse in Go", f"{GO}:many_tasks")],
        goals={"Pulse in Go": 1.0},
    ),
    Case(
        name="pool.notify",
        units={"p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:notify"),
        peers=[Contender("Pulse in Go", f"{GO}:notify")],
    ),
    Case(
        name="pool.stop",
        units={"p50": "ms", "p99": "ms"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:stop"),
        peers=[Contender("Pulse in Go", f"{GO}:stop")],
    ),
    Case(
        name="pool.join",
        units={"for_1000": "s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:join"),
    ),
    Case(
        name="pool.fail_over",
        units={"time": "TTLs"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:fail_over"),
    ),
    Case(
        name="pool.idle",
        units={"commands": "a second", "cpu": "%", "memory": "MB"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:idle"),
    ),
    Case(
        name="pool.move",
        units={"rate": "jobs/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:move"),
        peers=[],
    ),
]
