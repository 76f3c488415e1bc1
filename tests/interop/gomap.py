"""A Go replica with the calls of ours, so that a test can drive either side with the same words."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from tests.interop.gopeer import Peer

LOOK: Final = 0.02  # seconds between two looks at another process, which sends no sign
PATIENCE: Final = 12.0  # seconds until something is held not to come


async def wait_for(look: Callable[[], Awaitable[Any]], wanted: object) -> None:
    """Look until what is seen equals `wanted`."""
    seen: object = None
    with trio.move_on_after(PATIENCE):
        while (seen := await look()) != wanted:  # noqa: ASYNC110 - another process has no event to wait for
            await trio.sleep(LOOK)
    assert seen == wanted, f"{seen!r} instead of {wanted!r}"


@attrs.define(eq=False)
class GoMap:
    """A map that the peer has joined. Made by `join_go`."""

    peer: Peer
    on: str

    async def content(self) -> dict[str, str]:
        """Return what this replica has."""
        return dict(await self.peer.call("map.content", self.on))

    async def get_values(self, key: str) -> list[str] | None:
        """Return a list, as this replica reads it."""
        values: list[str] | None = await self.peer.call("map.get_values", self.on, key=key)
        return values

    async def do(self, name: str, *args: Any) -> Any:
        """Carry out one of our map's operations, by its name and arguments."""
        return await self.peer.call(f"map.{name}", self.on, **_arguments(name, args))

    async def close(self) -> None:
        """Leave the map."""
        await self.peer.call("map.close", self.on)


async def join_go(
    peer: Peer, name: str, *, on: str = "m", ttl: float = 0, sliding: bool = False
) -> GoMap:
    """Let the peer join a map."""
    await peer.call("map.join", on, name=name, ttl=ttl, sliding=sliding)
    return GoMap(peer, on)


_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "test_and_set": ("key", "test", "value"),
    "test_and_delete": ("key", "test"),
    "test_and_reset": ("items", "tests"),
    "increment": ("key", "number"),
}


def _arguments(name: str, args: tuple[Any, ...]) -> dict[str, Any]:
    if name.endswith("_values"):
        return {"key": args[0], "items": args[1:]}
    return dict(zip(_WORDS.get(name, ("key", "value")), args, strict=False))
