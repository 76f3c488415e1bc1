"""What a sink has decided about events and not yet told the server. No Redis here.

Acknowledgements wait for the next read's write, or for the next look of the
claims' loop, whichever comes first; events that failed wait for the latter. Who
sends takes them out first, so that no two send the same; a failed send puts them
back, and so does a refusal that may pass, such as for want of memory. The outbox is
no record: what never leaves it, as in a crash, is pending on the server and comes back
by a claim.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from typing import TypeAlias

import attrs
from redis.exceptions import NoPermissionError, RedisError

from terzetto.streaming._event import Event

Return: TypeAlias = tuple[Event, int]
"""An event that is handed back, and the idle time that it gets, in milliseconds."""


@attrs.define
class Outbox:
    """Acknowledgements and returns that wait to be sent, by stream.

    Attributes:
        acknowledged: ids of events that are done.
        returned: events that are handed back, each with its idle time in
            milliseconds.
    """

    acknowledged: dict[str, list[str]] = attrs.field(factory=dict[str, list[str]])
    returned: dict[str, deque[Return]] = attrs.field(factory=dict[str, deque[Return]])

    def streams(self) -> set[str]:
        """Return the names of the streams that something waits for."""
        return {*self.acknowledged, *self.returned}

    def acknowledge(self, stream: str, event_ids: Sequence[str]) -> None:
        """Note that events are done."""
        self.acknowledged.setdefault(stream, []).extend(event_ids)

    def hand_back(self, event: Event, idle_ms: int) -> None:
        """Note that an event shall come again."""
        self.returned.setdefault(event.stream, deque()).append((event, idle_ms))

    def take_acknowledged(self, streams: Iterable[str]) -> dict[str, list[str]]:
        """Return the acknowledgements of streams, and leave none of theirs here."""
        if not self.acknowledged:
            return {}
        return {name: self.acknowledged.pop(name) for name in streams if name in self.acknowledged}

    def take_returned(self, stream: str, limit: int) -> list[Return]:
        """Take the first returns of a stream that give their events the same idle time."""
        returned = self.returned.get(stream)
        if not returned:
            return []
        alike = takewhile(lambda waiting: waiting[1] == returned[0][1], returned)
        taken = list(islice(alike, limit))
        for _ in taken:
            returned.popleft()
        if not returned:
            del self.returned[stream]
        return taken

    def put_back(self, acknowledged: dict[str, list[str]]) -> None:
        """Keep acknowledgements that could not be sent; sending them twice does no harm."""
        for stream, event_ids in acknowledged.items():
            self.acknowledge(stream, event_ids)

    def put_back_refused(
        self, acknowledged: dict[str, list[str]], replies: Sequence[object]
    ) -> RedisError | None:
        """Keep the acknowledgements whose replies are refusals; return one of these.

        Not where the stream is gone, or the user may not acknowledge: they would be refused
        for ever, and pile up here.
        """
        refusal = None
        for (stream, event_ids), reply in zip(acknowledged.items(), replies, strict=False):
            if isinstance(reply, RedisError):
                refusal = reply
                lasts = str(reply).startswith(("NOGROUP", "WRONGTYPE"))
                if not lasts and not isinstance(reply, NoPermissionError):
                    self.acknowledge(stream, event_ids)
        return refusal

    def put_back_returned(self, stream: str, taken: Sequence[Return]) -> None:
        """Keep returns that could not be sent, before those that came meanwhile."""
        self.returned.setdefault(stream, deque()).extendleft(reversed(taken))
