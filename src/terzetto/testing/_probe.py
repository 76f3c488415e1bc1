"""A probe: an actor that writes down all that happens to it, and does what the test says.

The journal lives outside the actor, so it sees every life; entries are tuples
such as ``("started",)``, ``("note", 3)`` or ``("stopping", Stop.CLOSED)``.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import attrs
import trio

from terzetto.actor import Actor, Context, Message, Stop

Entry: TypeAlias = tuple[Any, ...]


@attrs.define(eq=False)
class Journal:
    """A list of entries that a test can wait on."""

    entries: list[Entry] = attrs.field(factory=list[Entry])
    _news: trio.Event = attrs.field(factory=trio.Event)

    def write(self, *entry: object) -> None:
        """Add an entry."""
        self.entries.append(entry)
        self._news.set()
        self._news = trio.Event()

    async def wait_for(self, *entry: object, count: int = 1) -> None:
        """Wait until there are `count` entries equal to `entry`; the caller owns the time-out."""
        await self.wait_until(lambda: self.entries.count(entry) >= count)

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds` is true; it is looked at after every new entry."""
        await trio.lowlevel.checkpoint()
        while not holds():
            await self._news.wait()

    def values(self, kind: str) -> list[Any]:
        """Return the second part of every entry of this kind."""
        return [entry[1] for entry in self.entries if entry[0] == kind]

    def kinds(self) -> list[str]:
        """Return the first part of every entry."""
        return [entry[0] for entry in self.entries]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


@attrs.define
class Probe(Actor):
    """An actor for tests; give all lives one journal: ``partial(Probe, journal)``."""

    journal: Journal = attrs.field(factory=Journal)
    ctx: Context["Probe"] | None = None

    async def started(self, ctx: Context["Probe"]) -> None:
        """Write ``("started",)``."""
        self.ctx = ctx
        self.journal.write("started")

    async def stopping(self, reason: Stop) -> None:
        """Write ``("stopping", reason)``."""
        self.journal.write("stopping", reason)

    async def handed_back(self, messages: Sequence[Message]) -> None:
        """Write ``("handed_back", [(name, args), ...])``."""
        self.journal.write("handed_back", [(message.name, message.args) for message in messages])

    async def note(self, value: object) -> None:
        """Write ``("note", value)``."""
        self.journal.write("note", value)

    async def echo(self, value: object) -> object:
        """Answer with `value`."""
        return value

    async def crash(self, error: BaseException) -> None:
        """Raise `error`."""
        raise error

    async def hold(self, gate: trio.Event) -> None:
        """Write ``("holding",)``, wait for `gate`, and write ``("held",)``."""
        self.journal.write("holding")
        await gate.wait()
        self.journal.write("held")

    async def call(self, fn: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401 - what fn returns
        """Run an async function inside the actor, and answer with what it returns."""
        return await fn(*args)
