"""A leader's lease: one member of a fleet leads at a time, and another takes over.

Run it with ``python -m examples.rmap.leader``. The lease is a key that holds the
leader's name and a count of its renewals. Others judge by a clock of their own: when
the value has not changed for the length of the lease, they swap theirs in with
`test_and_set`, and exactly one wins. A leader that could not renew in time stops
leading before that.
"""

import attrs
import trio

import terzetto
from terzetto import rmap
from terzetto.redis import Redis

LEASE = 1.0  # seconds without a renewal after which the leader counts as gone


@attrs.define
class Member:
    """One candidate."""

    name: str
    state: rmap.Map

    async def run(self) -> None:
        """Follow, and lead when there is no leader; for ever."""
        while True:
            lease = await self.win()
            await self.lead(lease)

    async def win(self) -> str:
        """Wait until this member leads; return its lease."""
        mine = f"{self.name} 0"
        async with self.state.watch("leader") as leases:
            held = await anext(leases)
            while True:
                if held is None and await self.state.set_if_absent("leader", mine):
                    return mine
                with trio.move_on_after(LEASE) as patience:
                    held = await anext(leases)
                if patience.cancelled_caught and held is not None:
                    swap = await self.state.test_and_set("leader", held, mine)
                    if swap.done:
                        return mine

    async def lead(self, lease: str) -> None:
        """Renew the lease until that fails; give it back when cancelled. Work goes in here."""
        try:
            for count in range(1, 1_000_000_000):
                await trio.sleep(LEASE / 4)
                renewed = f"{self.name} {count}"
                with trio.move_on_after(LEASE / 2) as deadline:
                    swap = await self.state.test_and_set("leader", lease, renewed)
                    if not swap.done:
                        return
                if deadline.cancelled_caught:
                    return
                lease = renewed
        except trio.Cancelled:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self.state.test_and_delete("leader", lease)
            raise


async def take_part(name: str, redis: Redis, scope: trio.CancelScope) -> None:
    """Be a member until the scope is cancelled."""
    with scope:
        async with rmap.join("election", redis) as state:
            await Member(name, state).run()


async def main() -> None:
    """Let three members follow a leader who died, and then one who resigns."""
    async with (
        terzetto.connect("embedded://") as redis,
        rmap.join("election", redis) as state,
        trio.open_nursery() as nursery,
    ):
        await state.set_and_wait("leader", "zoe 41")
        print("leading, but dead: zoe")
        members = {name: trio.CancelScope() for name in ("ada", "bob", "cy")}
        for name, scope in members.items():
            nursery.start_soon(take_part, name, redis, scope)

        def leader_but(former: str) -> str:
            name = state.get("leader", former).split()[0]
            return "" if name == former else name

        first = await state.wait_for(lambda _: leader_but("zoe"))
        print("one took over:", first in members)
        members[first].cancel()  # it gives the lease back, so nobody has to wait
        second = await state.wait_for(lambda _: leader_but(first))
        print("the next took over:", second in members and second != first)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
