"""Feature flags: reading one costs a dict look-up, flipping one reaches every process.

Run it with ``python -m examples.rmap.flags``. The flags are values of a class of ours,
through a codec, so a typo in a flag is an error where it is written.
"""

from collections.abc import Mapping

import attrs
import trio

import terzetto
from terzetto import rmap
from terzetto.codec import json_codec


@attrs.frozen(kw_only=True)
class Flag:
    """Who gets a feature: a share of the users, and some by name."""

    percent: int = 0
    users: tuple[str, ...] = ()

    def is_on_for(self, user: str) -> bool:
        """Return whether `user` gets it; the same answer in every process."""
        return user in self.users or sum(user.encode()) % 100 < self.percent


OFF = Flag()


def greet(flags: Mapping[str, Flag], user: str) -> str:
    """Return a greeting; the application asks for its flag wherever it needs it."""
    warm = flags.get("warm-greeting", OFF).is_on_for(user)
    return f"welcome back, {user}!" if warm else f"hello {user}"


async def main() -> None:
    """Greet people while an operator flips the flag in another copy of the map."""
    async with (
        terzetto.connect("embedded://") as redis,
        rmap.join("flags", redis, codec=json_codec(Flag)) as flags,
        rmap.join("flags", redis, codec=json_codec(Flag)) as operator,
        flags.watch("warm-greeting") as changes,
    ):
        async for flag in changes:  # the value it has now, then each further one
            print("flag:", flag)
            print("  ", greet(flags, "ada"))
            print("  ", greet(flags, "bob"))
            if flag is None:
                await operator.set("warm-greeting", Flag(users=("ada",)))
            elif flag.percent == 0:
                await operator.set("warm-greeting", Flag(percent=100))
            else:
                break


if __name__ == "__main__":
    trio.run(main)
