"""Shared control-plane state: replicated maps that say who works, and what they should do.

Run it with ``python -m examples.pool.control_plane``. Each process notes itself in the map of
members, with what operators want to know; a second map says what the operators want: a limit
that handlers read where they stand, and members that are to be drained. Reads cost nothing,
for every process has a copy.
"""

import json

import attrs
import trio

import terzetto
from terzetto import pool, rmap
from terzetto.redis import Redis


@attrs.define(eq=False)
class Member:
    """A process of the fleet; here a task."""

    name: str
    version: str
    members: rmap.Map
    wishes: rmap.Map
    node: pool.Node

    async def crawl(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        """Crawl a site as fast as the fleet may at the moment."""
        task_status.started()
        while True:
            pages_a_second = int(self.wishes.get("limit", "100"))
            await trio.sleep(1 / pages_a_second)

    async def work(self) -> None:
        """Work until the operators want this member drained; then hand over."""
        worker = await self.node.add_worker(self.crawl)
        about = {"version": self.version, "worker": worker.id}
        await self.members.set(self.name, json.dumps(about))
        await self.wishes.wait_for(lambda wishes: f"drain:{self.name}" in wishes)
        await worker.close()  # its jobs are on their way elsewhere when this returns
        await self.members.delete(self.name)


async def start(redis: Redis, name: str, *, task_status: trio.TaskStatus[None]) -> None:
    """Be one process of the fleet."""
    async with (
        rmap.join("members", redis) as members,
        rmap.join("wishes", redis) as wishes,
        pool.open_node("crawlers", redis) as node,
    ):
        task_status.started()
        await Member(name, "1.4.2", members, wishes, node).work()


async def count_jobs(client: pool.Node, known: int) -> int:
    """Return how many jobs run, once all do: one that moves is nobody's for a moment."""
    while (count := len(await client.job_keys())) < known:  # noqa: ASYNC110 - what other processes do is not announced
        await trio.sleep(0.01)
    return count


async def main() -> None:
    """Be the operators: look at the fleet, drain one member, look again."""
    async with (
        terzetto.connect("embedded://") as redis,
        rmap.join("members", redis) as members,
        rmap.join("wishes", redis) as wishes,
        pool.open_node("crawlers", redis, client_only=True) as client,
        trio.open_nursery() as nursery,
    ):
        for name in ("ann", "bob", "cy"):
            await nursery.start(start, redis, name)
        await members.wait_for(lambda found: len(found) == 3)
        for name in sorted(members):
            print(name, json.loads(members[name])["version"])
        await client.dispatch_many((f"site-{number}", b"") for number in range(30))
        await wishes.set("limit", "10")
        print("jobs:", await count_jobs(client, 30))

        await wishes.set("drain:bob", "now")
        await members.wait_for(lambda found: "bob" not in found)
        print("members:", *sorted(members))
        print("workers:", len((await pool.look_at_pool("crawlers", redis)).workers))
        print("jobs:", await count_jobs(client, 30))
        for name in members:
            await wishes.set(f"drain:{name}", "now")
    print("members:", *sorted(members))


if __name__ == "__main__":
    trio.run(main)
