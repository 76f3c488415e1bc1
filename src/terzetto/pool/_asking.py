"""The script of dispatches: how it is asked, and what it answers. Pure; see `lua/claim.lua`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import attrs

from terzetto.pool._keys import content_key, own_key, stream_key, updates_channel
from terzetto.pool._names import SINK, Names
from terzetto.pool._replies import items_of, number_of, text_of
from terzetto.redis import Arg

RUNNING: Final = "running"
PENDING: Final = "pending"
FULL: Final = "full"
ENDING: Final = "ending"
_REFUSALS: Final = {2: PENDING, 3: RUNNING, 6: FULL, 7: ENDING}
_OWNED: Final = 5
_READ: Final = frozenset({4, _OWNED})
_NOBODY_HOME: Final = 8


@attrs.define  # not frozen: one is made for every dispatch
class Asked:
    """A key that a dispatch asks for, and the start event that is to be sent.

    `token` is a name of this dispatch alone, under which it is known when asked again.
    With a worker, named by id and creation time, and its node's consumer of the pool's sink,
    the event is read for that node in the same step, if none waits before it, and the worker
    becomes the owner. `node_id` is the node that is told of it; ``""`` if it is this one.
    """

    key: str
    body: bytes
    token: str
    worker_id: str = ""
    created: str = ""
    consumer: str = ""
    node_id: str = ""


@attrs.define  # not frozen: one is made for every dispatch
class Claim:
    """A key that a dispatch holds, and the event with which it was sent.

    If it is read, no sink brings it before the grace period is over; if it is owned, the
    job is its worker's already. Where the node or consumer that was named is none (any more),
    nobody was at home.
    """

    event_id: str
    is_read: bool = False
    is_owned: bool = False
    was_nobody_home: bool = False


@attrs.define  # not frozen: one is made for every dispatch
class Asking:
    """One call of the script: settles dispatches that are over, then claims the keys of others.

    Attributes:
        asked: the keys.
        acks: the ids of events of the pool's stream to be acknowledged and deleted.
        guards: the guards (key, token) to be released that are still their dispatch's.
        guard_for: how long the keys stay guarded, in seconds.
        limit: the greatest number of events that may wait; 0 for any.
    """

    asked: Sequence[Asked]
    acks: Sequence[str] = ()
    guards: Sequence[tuple[str, str]] = ()
    guard_for: float = attrs.field(kw_only=True)
    limit: int = attrs.field(kw_only=True)

    def call(self, names: Names) -> tuple[list[str], list[Arg]]:
        """Return the script's keys and arguments for a pool."""
        first_keys, channels, own = _constant(names)
        keys, args = list(first_keys), list(channels)
        args += (round(self.guard_for * 1e6), self.limit, SINK)
        args += (len(self.acks), len(self.guards), *self.acks)
        for key, token in self.guards:
            keys.append(own + token)
            args.append(key)
        keys += [own + each.token for each in self.asked]
        told: dict[str, int] = {"": 0}
        for each in self.asked:
            if each.node_id not in told:
                keys.append(stream_key(names.node_stream(each.node_id)))
                told[each.node_id] = len(keys)
            args += (each.key, each.body, each.worker_id, each.created)
            args += (each.consumer, told[each.node_id])
        return keys, args

    def read(self, reply: object) -> list[Claim | str]:
        """Return for each key the claim, or `RUNNING`, `PENDING`, `FULL` or `ENDING`.

        Raises:
            TypeError: the reply is none of this script.
        """
        return [_read(each) for each in items_of(reply, len(self.asked))]


@lru_cache(100)
def _constant(names: Names) -> tuple[Sequence[str], Sequence[Arg], str]:
    """Return the keys and channels of a pool, and what its dispatches' own keys begin with."""
    maps = (names.payloads, names.pending, names.jobs)
    keys = [*map(content_key, (*maps, names.workers, names.shutdown)), stream_key(names.stream)]
    return keys, [updates_channel(name) for name in maps], own_key(names, "claim:")


def _read(reply: object) -> Claim | str:
    status, event_id = items_of(reply, 2)
    if status in _REFUSALS:
        return _REFUSALS[number_of(status)]
    return Claim(
        text_of(event_id),
        is_read=status in _READ,
        is_owned=status == _OWNED,
        was_nobody_home=status == _NOBODY_HOME,
    )
