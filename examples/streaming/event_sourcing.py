"""Event sourcing: balances are what the events say, with a snapshot to begin from.

Run it with ``python -m examples.streaming.event_sourcing``; it starts a server of its own.
"""

import json

import trio

import terzetto
from terzetto import rmap
from terzetto.streaming import Event, Stream


def apply(balances: dict[str, int], event: Event) -> None:
    """Change the balances as an event says."""
    change = json.loads(event.payload)
    sign = 1 if event.name == "deposited" else -1
    balances[change["account"]] = balances.get(change["account"], 0) + sign * change["amount"]


async def rebuild(accounts: Stream, snapshots: rmap.Map) -> tuple[dict[str, int], int]:
    """Return the balances and how many events it took to work them out."""
    balances: dict[str, int] = {}
    start = "0-0"
    if "balances" in snapshots:
        snapshot = json.loads(snapshots["balances"])
        balances, start = snapshot["state"], snapshot["after"]
    end = (await accounts.info()).last_id
    replayed = 0
    if start != end:
        async with accounts.open_reader(start=start) as reader:
            async for event in reader:
                apply(balances, event)
                replayed += 1
                if event.id == end:
                    break
    # State and place are one value, so that a crash cannot part them.
    await snapshots.set_and_wait("balances", json.dumps({"state": balances, "after": end}))
    return balances, replayed


async def main() -> None:
    """Add events, and work the balances out three times."""
    async with terzetto.connect("embedded://") as redis, rmap.join("snapshots", redis) as snapshots:
        accounts = Stream("accounts", redis, max_len=0)

        async def add(name: str, account: str, amount: int) -> None:
            body = json.dumps({"account": account, "amount": amount}).encode()
            await accounts.add(name, body, topic=account)

        await add("deposited", "ada", 100)
        await add("deposited", "grace", 50)
        await add("withdrawn", "ada", 30)
        print(*await rebuild(accounts, snapshots), "events replayed")
        await add("withdrawn", "grace", 20)
        print(*await rebuild(accounts, snapshots), "event replayed")
        print(*await rebuild(accounts, snapshots), "events replayed")


if __name__ == "__main__":
    trio.run(main)
