"""The cases of receiving: messages of a channel, and entries of a group with their acks."""

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_receive"
PEER = "tests.bench.peer_receive"
COREDIS = "tests.bench.peer_coredis"
PACKAGES = ["redis", "hiredis"]

CASES = [
    Case(
        name="redis.pubsub.receive",
        # The server has published everything before the time begins, so both figures are the
        # receiver's: how fast it takes messages, and what one costs it.
        units={"rate": "messages/s", "cpu": "us"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:receive"),
        peers=[
            Contender("redis.asyncio", f"{PEER}:receive", loop="asyncio", packages=PACKAGES),
            Contender(
                "redis.asyncio on uvloop",
                f"{PEER}:receive",
                loop="uvloop",
                packages=[*PACKAGES, "uvloop"],
            ),
            Contender("coredis on trio", f"{COREDIS}:receive", packages=["coredis"]),
        ],
        goals={"redis.asyncio": 3.0, "redis.asyncio cpu": 3.0},
    ),
    Case(
        name="redis.group.read_and_ack",
        units={"rate": "entries/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:read_and_ack"),
        peers=[
            Contender("terzetto, a call for the acks", f"{OURS}:read_then_ack"),
            Contender("redis.asyncio", f"{PEER}:read_and_ack", loop="asyncio", packages=PACKAGES),
            Contender(
                "redis.asyncio, in pipelines",
                f"{PEER}:read_and_ack_in_pipelines",
                loop="asyncio",
                packages=PACKAGES,
            ),
            Contender("coredis on trio", f"{COREDIS}:read_and_ack", packages=["coredis"]),
        ],
        goals={"redis.asyncio": 1.5},
    ),
]
