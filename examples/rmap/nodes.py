"""Several processes share one map: each counts its work in it and sees all others' counts.

Run it with ``python -m examples.rmap.nodes``; it starts a server and three processes.
With a URL and a name as arguments it is one of these processes.
"""

import sys

import trio

import terzetto
from terzetto import rmap
from terzetto.server import open_embedded

NODES = ("ada", "grace", "linus")
ROUNDS = 100


async def work(url: str, name: str) -> None:
    """Count to ROUNDS in the map, then wait until every node has."""
    async with terzetto.connect(url) as redis, rmap.join("fleet", redis) as fleet:
        await fleet.append_unique_values("nodes", name)
        for _ in range(ROUNDS):
            await fleet.increment(name)
            await fleet.increment("total")
        await fleet.wait_for(lambda m: m.get("total") == str(ROUNDS * len(NODES)))
        counts = ", ".join(f"{node} {fleet[node]}" for node in NODES)
        print(f"{name} sees: {counts}, total {fleet['total']}")


async def main() -> None:
    """Run the nodes one beside the other and show what each saw."""
    async with open_embedded() as server:
        said: dict[str, str] = {}

        async def run(name: str) -> None:
            command = [sys.executable, "-m", "examples.rmap.nodes", server.url, name]
            process = await trio.run_process(command, capture_stdout=True)
            said[name] = process.stdout.decode().strip()

        async with trio.open_nursery() as nursery:
            for name in NODES:
                nursery.start_soon(run, name)
        for name in NODES:
            print(said[name])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(work, sys.argv[1], sys.argv[2])
    else:
        trio.run(main)
