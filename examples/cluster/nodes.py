"""Six nodes of a Redis Cluster on ports 7000 to 7005, until Ctrl-C.

    $ python -m examples.cluster.nodes

Three masters with a replica each. In production they are six machines; see the
how-to on deploying queues on a cluster.
"""

import trio

from examples.cluster.queues import PORTS
from terzetto.server import open_cluster


async def main() -> None:
    """Run the nodes."""
    async with open_cluster(ports=PORTS) as cluster:
        print(f"six nodes: {cluster.url}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
