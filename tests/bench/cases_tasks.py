"""The cases of task queues: enqueueing, draining, sleeping, and the wait before a start.

Each Python peer runs in an environment of its own, with its worker in the process
that enqueued, or with two worker processes beside it; each drains with 32 tasks at
once. Go's asynq drains in one process, with as many threads as there are cores. The
cases beside Go alone are asynq's own benchmark: 100,000 tasks, ten at once.
"""

from collections.abc import Mapping

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_tasks"
GO = "tests.bench.peer_asynq"

_REQUIRES = {
    "streaq": ("streaq",),
    "arq": ("arq",),
    "saq": ("saq[redis]", "typing_extensions"),
    "taskiq": ("taskiq-redis",),
    "celery": ("celery[redis]",),
}
_BULK_GOAL = dict.fromkeys(_REQUIRES, 2.0)
_GOAL = dict.fromkeys(_REQUIRES, 1.0)


def _case(
    name: str,
    units: Mapping[str, str],
    goals: Mapping[str, float],
    *,
    function: str = "",
    go: str = "",
    pinned: bool = True,
    long: bool = False,
) -> Case:
    function = function or name
    return Case(
        name=f"tasks.{name}",
        units=units,
        server=True,
        pinned=pinned,
        long=long,
        ours=Contender("terzetto", f"{OURS}:{function}"),
        peers=[
            *([Contender("asynq in Go", f"{GO}:{go}")] if go else []),
            *(
                Contender(
                    peer,
                    f"tests.bench.peer_{peer}:peer.{function}",
                    loop="asyncio",
                    packages=(peer,),
                    requires=requires,
                )
                for peer, requires in _REQUIRES.items()
            ),
        ],
        goals=goals,
    )


_RATE = {"rate": "tasks/s"}

CASES = [
    _case("enqueue", _RATE, _GOAL, go="enqueue"),
    _case("bulk", _RATE, _BULK_GOAL, go="bulk"),
    _case("drain", _RATE, {**_BULK_GOAL, "asynq in Go": 0.7}, go="drain"),
    _case(
        "drain.2processes",
        _RATE,
        {**_BULK_GOAL, "asynq in Go": 1.0},
        function="drain_apart",
        go="drain",
        pinned=False,
    ),
    _case("sleep", _RATE, _GOAL),
    _case("sleep.2processes", _RATE, _GOAL, function="sleep_apart", pinned=False),
    _case("sleep.20000", _RATE, _GOAL, function="sleep_long", long=True),
    _case(
        "sleep.20000.2processes",
        _RATE,
        _GOAL,
        function="sleep_long_apart",
        pinned=False,
        long=True,
    ),
    _case("start", {"p50": "ms", "p99": "ms"}, _GOAL, go="start"),
    Case(
        name="tasks.drain_go",
        units={"rate": "tasks/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:drain_go"),
        peers=[Contender("asynq in Go", f"{GO}:drain_go")],
        goals={"asynq in Go": 0.7},
    ),
    Case(
        name="tasks.end_to_end",
        units={"rate": "tasks/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:end_to_end"),
        peers=[Contender("asynq in Go", f"{GO}:end_to_end")],
        goals={"asynq in Go": 0.7},
    ),
]
