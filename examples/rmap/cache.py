"""A cache in front of a slow function, shared by a fleet, where only one computes a value.

Run it with ``python -m examples.rmap.cache``. Who misses claims the key with
`set_if_absent`; who comes second waits for the value, which arrives in its own copy. A
claim that stays unchanged for too long is taken away, so a crash holds up nobody for
ever; each judges that by a clock of its own.
"""

from collections.abc import Awaitable, Callable

import attrs
import trio

import terzetto
from terzetto import rmap
from terzetto.codec import json_codec

PATIENCE = 5.0  # seconds that one computation may take


@attrs.frozen(kw_only=True)
class Entry:
    """A value, or the claim of who computes it."""

    value: str | None = None
    claimed_by: str = ""


@attrs.frozen
class Cache:
    """Values of `compute`, each computed once over all who join `entries`."""

    entries: rmap.TypedMap[Entry]
    compute: Callable[[str], Awaitable[str]]
    name: str

    async def get(self, key: str) -> str:
        """Return the value of `key`, from the copy here if anybody has computed it."""
        entry = self.entries.get(key)
        if entry is not None and entry.value is not None:
            return entry.value
        async with self.entries.watch(key) as entries:
            entry = await anext(entries)
            while entry is None or entry.value is None:
                claim = Entry(claimed_by=self.name)
                if entry is None and await self.entries.set_if_absent(key, claim):
                    return await self.fill(key, claim)
                with trio.move_on_after(PATIENCE) as patience:
                    entry = await anext(entries)
                if patience.cancelled_caught and entry is not None:
                    await self.entries.test_and_delete(key, entry)  # who claimed it is gone
            return entry.value

    async def fill(self, key: str, claim: Entry) -> str:
        """Compute a value that is claimed; take the claim back if that fails."""
        try:
            value = await self.compute(key)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self.entries.test_and_delete(key, claim)
            raise
        await self.entries.test_and_set(key, claim, Entry(value=value))
        return value


async def main() -> None:
    """Let thirty tasks in each of two members ask for the same three values."""
    calls: list[str] = []
    answers: list[str] = []

    async def slow_square(number: str) -> str:
        calls.append(number)
        await trio.sleep(0.05)
        return str(int(number) ** 2)

    async def ask(cache: Cache, number: str) -> None:
        answers.append(f"{number} -> {await cache.get(number)}")

    async with (
        terzetto.connect("embedded://") as redis,
        rmap.join("squares", redis, codec=json_codec(Entry)) as one,
        rmap.join("squares", redis, codec=json_codec(Entry)) as two,
    ):
        caches = [Cache(one, slow_square, "one"), Cache(two, slow_square, "two")]
        async with trio.open_nursery() as nursery:
            for cache in caches:
                for number in range(30):
                    nursery.start_soon(ask, cache, str(number % 3 + 2))
        print(f"{len(answers)} answers: {', '.join(sorted(set(answers)))}")
        print(f"computed: {', '.join(sorted(calls))}")


if __name__ == "__main__":
    trio.run(main)
