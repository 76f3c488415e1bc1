"""The kernel's cases: messages to one actor, against two actor libraries."""

from tests.bench.harness import Case, Contender

PYKKA = "tests.bench.peer_pykka"
THESPIAN = "tests.bench.peer_thespian"
OURS = "tests.bench.ours_actor"

CASES = [
    Case(
        name="actor.tell",
        units={"rate": "messages/s"},
        ours=Contender("terzetto", f"{OURS}:tell"),
        peers=[
            Contender("pykka", f"{PYKKA}:tell", loop="none", packages=["pykka"]),
            Contender("thespian", f"{THESPIAN}:tell", loop="none", packages=["thespian"]),
        ],
        goals={"pykka": 2.0},
    ),
    Case(
        name="actor.ask",
        units={"rate": "questions/s"},
        ours=Contender("terzetto", f"{OURS}:ask"),
        peers=[
            Contender("pykka", f"{PYKKA}:ask", loop="none", packages=["pykka"]),
            Contender("thespian", f"{THESPIAN}:ask", loop="none", packages=["thespian"]),
        ],
        goals={"pykka": 4.0, "thespian": 1.0},
    ),
]
