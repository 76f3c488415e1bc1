"""The cases of receiving: messages of a channel, and entries of a group with their acks."""

from tests.bench.harness import Case, Contender

OURS = "tests.bench.ours_receive"
PEER = "tests.bench.peer_receive"
PACKAGES = ["redis", "hiredis"]

CASES = [
    Case(
        name="redis.pubsub.receive",
        # What a message costs the receiver: the rate itself is bounded by the server's publishing.
        units={"cpu": "us", "rate": "messages/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:receive"),
        peers=[Contender("redis.asyncio", f"{PEER}:receive", loop="asyncio", packages=PACKAGES)],
        goals={"redis.asyncio": 3.0},
    ),
    Case(
        name="redis.group.read_and_ack",
        units={"rate": "entries/s"},
        server=True,
        ours=Contender("terzetto", f"{OURS}:read_and_ack"),
        peers=[
            Contender("redis.asyncio", f"{PEER}:read_and_ack", loop="asyncio", packages=PACKAGES)
        ],
        goals={"redis.asyncio": 1.5},
    ),
]
