"""The three programs of this directory, one after the other, and the listing of the queues.

$ python -m examples.cluster
"""

import trio

from examples.cluster import client, worker
from examples.cluster.queues import PORTS, URL
from terzetto.cli import main as terzetto
from terzetto.server import open_cluster


async def main() -> None:
    """Run nodes, client, server and listing."""
    async with open_cluster(ports=PORTS):
        print("six nodes on ports 7000 to 7005")
        await client.main()
        await worker.main()
        await trio.to_thread.run_sync(terzetto, ["queue", "ls", "--cluster", "--url", URL])


if __name__ == "__main__":
    trio.run(main)
