"""The kernel's cases: messages to one actor, against two actor libraries and bare trio."""

from functools import partial

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_actor"
CHECKPOINT = Contender("trio, a checkpoint each (the floor)", "tests.bench.peer_trio:checkpoint")
CHANNEL = Contender("trio, a memory channel", "tests.bench.peer_trio:channel")

ours = partial(Contender, "terzetto")


def pykka(function: str) -> Contender:
    """Return Pykka's contender `function`."""
    return Contender("pykka", f"tests.bench.peer_pykka:{function}", loop="none", packages=["pykka"])


def thespian(function: str) -> Contender:
    """Return Thespian's contender `function`."""
    target = f"tests.bench.peer_thespian:{function}"
    return Contender("thespian", target, loop="none", packages=["thespian"])


CASES = [
    Case(
        name="actor.tell",
        units={"rate": "messages/s"},
        ours=ours(f"{OURS}:tell"),
        peers=[pykka("tell"), thespian("tell"), CHANNEL],
        goals={"pykka": 2.0},
    ),
    Case(
        name="actor.tell_nowait",
        units={"rate": "messages/s"},
        ours=ours(f"{OURS}:tell_nowait"),
        peers=[pykka("tell"), thespian("tell"), CHANNEL],
    ),
    Case(
        name="actor.ask",
        units={"rate": "questions/s"},
        ours=ours(f"{OURS}:ask"),
        peers=[pykka("ask"), thespian("ask"), CHECKPOINT],
        goals={"pykka": 4.0, "thespian": 1.0},
    ),
    Case(
        name="actor.ask.waiting",
        units={"rate": "questions/s"},
        ours=ours(f"{OURS}:ask_waiting"),
        peers=[CHECKPOINT],
    ),
    Case(
        name="actor.ask.20askers",
        units={"rate": "questions/s"},
        ours=ours(f"{OURS}:ask_from_tasks"),
        peers=[pykka("ask_from_threads"), CHECKPOINT],
    ),
    Case(
        name="actor.spawn",
        units={"rate": "actors/s"},
        ours=ours(f"{OURS}:spawn"),
        peers=[pykka("spawn"), thespian("spawn")],
    ),
    Case(
        name="actor.memory",
        units={"above": "bytes"},
        ours=ours(f"{OURS}:memory"),
        peers=[],
    ),
    Case(
        name="actor.family",
        units={"start": "s", "lose": "s", "stop": "s"},
        ours=ours(f"{OURS}:family"),
        peers=[],
    ),
]
