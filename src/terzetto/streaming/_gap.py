"""What a reader missed because its events were trimmed before it came to them. Pure.

A stream counts the entries ever added and knows its length and its first id.
While nothing but trimming takes entries away, the first one left has the number
`added - length + 1`. A cursor that counts what it has read knows the number of
the next entry it should see, and the difference is what it missed. Entries that
were removed one by one (XDEL) count as missed too, so the figure is an upper
bound then.
"""

from collections import deque
from typing import Final

import attrs

from terzetto.streaming._positions import ZERO, is_after

_TRAIL: Final = 32  # ids


@attrs.frozen(kw_only=True)
class Gap:
    """Events that a reader never saw.

    Attributes:
        stream: the stream's name.
        after: the id of the last event that was read before them.
        before: the id of the first event after them, or of a later one.
        missed: how many they were; an upper bound if events were also removed
            one by one; None if it cannot be told.
    """

    stream: str
    after: str
    before: str
    missed: int | None


@attrs.frozen(kw_only=True)
class Edges:
    """What a stream held at one moment.

    Attributes:
        exists: whether it was there.
        first_id: the id of its first entry; ``"0-0"`` if it was empty.
        last_id: the greatest id ever made in it.
        added: the entries ever added.
        length: the entries there.
    """

    exists: bool
    first_id: str
    last_id: str
    added: int
    length: int


@attrs.define(kw_only=True)
class Cursor:
    """A place in a stream.

    Attributes:
        stream: the stream's name.
        last_id: the id of the last entry read.
        number: how many entries had ever been added up to that one; None if unknown.
        existed: whether the stream had an entry with that id; a start may lie in
            the future.
        trail: ids of some entries that were read lately, the last one at the end.
    """

    stream: str
    last_id: str
    number: int | None = None
    existed: bool = False
    trail: deque[str] = attrs.field(factory=lambda: deque[str](maxlen=_TRAIL), init=False)
    _sure_of: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin without a gap."""
        self._sure_of = self.last_id

    def advance(self, first_id: str, last_id: str, count: int) -> None:
        """Move past a batch of `count` entries from `first_id` to `last_id`."""
        self.last_id, self.existed = last_id, True
        self.trail += (first_id, last_id)
        if self.number is not None:
            self.number += count

    def gap(self, batch_ids: list[str], edges: Edges) -> Gap | None:
        """Return what is missing between this cursor and a batch that was read from it.

        `edges` is how the stream was found after the batch had been read. Only
        call it before `advance`.
        """
        first = batch_ids[0]
        if not edges.exists or not edges.length or is_after(first, edges.first_id):
            return None  # an older entry is there still, so nothing before the batch was trimmed
        before_first = edges.added - edges.length
        try:
            number = before_first - batch_ids.index(edges.first_id)
        except ValueError:  # more was trimmed since the batch was read
            number = None
        if (before_first if number is None else number) <= (self.number or 0):
            return None
        missed = None if number is None or self.number is None else number - self.number
        return Gap(stream=self.stream, after=self.last_id, before=first, missed=missed)

    def gap_before(self, edges: Edges) -> Gap | None:
        """Return what was missed up to here, if that can be told, and count on from the truth.

        At the end of a stream the number of the last entry is known. So what
        slipped through between two looks, however it did, shows up here.
        """
        if not self.existed or self.last_id != edges.last_id:
            return None
        known, self.number = self.number, edges.added
        after, self._sure_of = self._sure_of, self.last_id
        if known is None or known >= edges.added:
            return None
        return Gap(stream=self.stream, after=after, before=self.last_id, missed=edges.added - known)

    def known_in(self, edges: Edges) -> str | None:
        """Return the latest id of the trail that the stream may still have, None if there is none.

        A stream that was made anew has no such entry. One that has it lost only its
        end, as when a replica took over that had not heard of all.
        """
        return next(
            (known for known in reversed(self.trail) if not is_after(known, edges.last_id)), None
        )

    def step_back(self, edges: Edges) -> None:
        """Go back to the end of a stream that lost its last entries, which we have read."""
        self.last_id = self._sure_of = edges.last_id
        self.number = edges.added

    def start_over(self) -> str:
        """Go back to the start of a stream that was made anew; return where the cursor was."""
        before = self.last_id
        self.trail.clear()
        self.last_id = self._sure_of = ZERO
        self.number, self.existed = 0, False
        return before

    def is_beyond(self, edges: Edges) -> bool:
        """Tell whether the stream was made anew since: it never had an entry as late as ours."""
        return self.existed and edges.exists and is_after(self.last_id, edges.last_id)
