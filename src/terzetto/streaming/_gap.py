"""What a reader missed because its events were trimmed before it came to them. Pure.

A stream counts the entries ever added and knows its length and its first id.
While nothing but trimming takes entries away, the first one left has the number
`added - length + 1`. A cursor that counts what it has read knows the number of
the next entry it should see, and the difference is what it missed. Entries that
were removed one by one (XDEL) count as missed too, so the figure is an upper
bound then.
"""

import attrs

from terzetto.streaming._positions import ZERO, is_after


@attrs.frozen(kw_only=True)
class Gap:
    """Events that a reader never saw.

    Attributes:
        stream: the stream's name.
        after: the id of the last event that was read before them.
        before: the id of the first event after them.
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
    """

    stream: str
    last_id: str
    number: int | None = None

    def advance(self, last_id: str, count: int) -> None:
        """Move past a batch of `count` entries that ends with `last_id`."""
        self.last_id = last_id
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
        missed = None if number is None or self.number is None else number - self.number
        if missed is not None and missed <= 0:
            return None
        if missed is None and self.number is not None and before_first <= self.number:
            return None
        return Gap(stream=self.stream, after=self.last_id, before=first, missed=missed)

    def is_beyond(self, edges: Edges) -> bool:
        """Tell whether the stream was made anew since: it never had an entry as late as ours."""
        return self.last_id != ZERO and is_after(self.last_id, edges.last_id)
