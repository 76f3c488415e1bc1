"""Checkpoints: where a projection stopped, kept in a replicated map.

The map may hold the checkpoints of many readers; each has a key of its own for
each stream, ``<key>/<stream>``, whose value is the id of the last event that was
dealt with. The application joins the map, as it chooses its name and its life.
"""

import attrs

from terzetto.rmap import Map


@attrs.frozen
class Checkpoint:
    """A reader's place, kept in a replicated map.

    Attributes:
        map: a map that has been joined.
        key: whose place it is, such as the projection's name; without ``=``.
    """

    map: Map
    key: str

    def load(self, stream: str) -> str | None:
        """Return the id of the last event that was dealt with; None if there is none."""
        return self.map.get(f"{self.key}/{stream}")

    async def save(self, stream: str, event_id: str) -> None:
        """Note that the events up to `event_id` have been dealt with."""
        await self.map.set(f"{self.key}/{stream}", event_id)
