"""``terzetto demo``: a pool, a stream and a map at work, on an embedded server.

Two nodes share the jobs of twelve users; half-way one of them closes, and its jobs go
on at the other. It is what the tutorial builds step by step.
"""

from collections import Counter

import trio

from terzetto import pool, rmap, streaming
from terzetto.cli._session import View
from terzetto.redis import connect
from terzetto.server import open_embedded

_HERE = View()
_USERS = [f"user:{number}" for number in range(1, 13)]


class _Greeter:
    """A worker's handler: it greets users for as long as they are there."""

    def __init__(self, name: str, greetings: streaming.Stream) -> None:
        self.name = name
        self.greetings = greetings
        self.jobs: set[str] = set()

    async def start(self, job: pool.Job) -> None:
        """Greet a user."""
        self.jobs.add(job.key)
        await self.greetings.add("greeted", job.key.encode(), topic=self.name)

    async def stop(self, key: str) -> None:
        """Let a user go."""
        self.jobs.discard(key)


async def demo(*, view: View = _HERE) -> None:
    """Show a pool, a stream and a map at work on an embedded server."""
    tell = view.output.tell
    async with (
        open_embedded() as server,
        connect(server.url) as redis,
        rmap.join("demo", redis) as config,
    ):
        tell(f"An embedded server runs at {server.url}", {"step": "server", "url": server.url})
        await config.set_and_wait("greeting", "hello")
        tell(
            f"Map demo says: greeting = {config['greeting']}",
            {"step": "map", "greeting": config["greeting"]},
        )
        greetings = streaming.Stream("greetings", redis)
        first, second = _Greeter("first", greetings), _Greeter("second", greetings)
        async with (
            greetings.open_reader(start=streaming.OLDEST) as reader,
            pool.open_node("demo", redis) as staying,
        ):
            await staying.add_worker(first)
            async with pool.open_node("demo", redis) as leaving:
                await leaving.add_worker(second)
                await staying.dispatch_many([(user, b"") for user in _USERS])
                shares = {each.name: len(each.jobs) for each in (first, second)}
                tell(
                    f"Two nodes share {len(_USERS)} jobs: {_text(shares)}",
                    {"step": "shared", **shares},
                )
                heard = Counter([(await anext(aiter(reader))).topic for _ in _USERS])
                tell(f"Stream greetings has {heard.total()} events", {"step": "stream", **heard})
            with trio.move_on_after(30):
                while len(first.jobs) < len(_USERS):
                    await anext(aiter(reader))  # each job says so when it starts anew
            tell(
                f"The second node has closed; the first runs all {len(first.jobs)} jobs",
                {"step": "moved", "first": len(first.jobs)},
            )
            await staying.shutdown()
        tell("The pool is shut down: no job, no key of it is left", {"step": "shutdown"})


def _text(shares: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in shares.items())
