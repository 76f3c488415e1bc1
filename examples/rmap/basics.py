"""The operations of a replicated map, one after the other.

Run it with ``python -m examples.rmap.basics``; it starts a server of its own.
"""

import trio

import terzetto
from terzetto import rmap


async def main() -> None:
    """Join a map twice, as two processes would, and show what each sees."""
    async with (
        terzetto.connect("embedded://") as redis,
        rmap.join("config", redis) as config,
        rmap.join("config", redis) as elsewhere,
    ):
        # A write returns the value before. set_and_wait also waits for this copy.
        print("before:", await config.set("language", "en"))
        await config.set_and_wait("language", "de")
        print("here:", config["language"])  # a local read: no waiting, no network

        # Every copy follows. wait_for wakes when something has changed.
        print("elsewhere:", await elsewhere.wait_for(lambda m: m.get("language")))

        # Writes that depend on what is there are decided by the server.
        print("first to claim:", await config.set_if_absent("owner", "node 1"))
        print("second to claim:", await elsewhere.set_if_absent("owner", "node 2"))
        print("swap:", await config.test_and_set("owner", "node 1", "node 3"))
        print("counter:", await config.increment("visits"), await elsewhere.increment("visits"))

        # A list is one value that several processes can add to at once.
        print("regions:", await config.append_values("regions", "eu", "us"))
        print("regions:", await elsewhere.append_unique_values("regions", "us", "asia"))
        print("without eu:", await config.remove_values("regions", "eu"))

        # Subscribers hear what kind of change there was; a reset is never missed.
        async with elsewhere.subscribe() as changes:
            await config.reset()
            async for change in changes:
                if change is rmap.Change.RESET:
                    print("told:", change.name)
                    break
        print("keys left:", list(elsewhere))

    print("after leaving:", config.is_closed, dict(config))


if __name__ == "__main__":
    trio.run(main)
