"""The cases of task queues: enqueueing, draining, sleeping, and the wait before a start.

Each Python peer runs in an environment of its own, with its worker in the process
that enqueued; all drain with 32 tasks at once. The cases beside Go are asynq's own
benchmark: 100,000 tasks, ten at once.
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
    name: str, units: Mapping[str, str], goals: Mapping[str, float], *, go: bool = True
) -> Case:
    return Case(
        name=f"tasks.{name}",
        units=units,
        server=True,
        ours=Contender("terzetto", f"{OURS}:{name}"),
        peers=[
            *([Contender("asynq in Go", f"{GO}:{name}")] if go else []),
            *(
                Contender(
                    peer,
                    f"tests.bench.peer_{peer}:{name}",
                    loop="asyncio",
                    packages=(peer,),
                    requires=requires,
                )
                for peer, requires in _REQUIRES.items()
            ),
        ],
        goals=goals,
    )


CASES = [
    _case("enqueue", {"rate": "tasks/s"}, _GOAL),
    _case("bulk", {"rate": "tasks/s"}, _BULK_GOAL),
    _case("drain", {"rate": "tasks/s"}, {**_BULK_GOAL, "asynq in Go": 0.7}),
    _case("sleep", {"rate": "tasks/s"}, _GOAL, go=False),
    _case("start", {"p50": "ms", "p99": "ms"}, _GOAL),
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
