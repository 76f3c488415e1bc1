"""Looking at maps from outside, without a replica: which there are, and what one holds.

Called by programs that show what is in Redis. Whoever works with a map joins it.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal, cast

import attrs

from terzetto._shared._encoding import decode_text
from terzetto._shared._outcomes import value_or_raise
from terzetto.errors import InvalidPayloadError
from terzetto.redis import Gap, Redis, Subscription, find_keys
from terzetto.rmap._keys import (
    CONTENT_SUFFIX,
    KIND_FIELD,
    PREFIX,
    REVISION_FIELD,
    content_key,
    updates_channel,
)
from terzetto.rmap._message import Op, decode_message, decode_revision


@attrs.frozen(kw_only=True)
class StoredMap:
    """A map as it stands in Redis.

    Attributes:
        name: what it is called.
        revision: how many changes it has seen; None if there is no map of that
            name, or another program wrote its hash.
        last_op: what the last writer did, in its own word ("set", "del", "reset" and
            so on); None if it did not say.
        expires_in: seconds until it expires; None if it does not.
        values: what it holds.
    """

    name: str
    revision: int | None
    last_op: str | None
    expires_in: float | None
    values: dict[str, str]


@attrs.frozen(kw_only=True)
class Update:
    """A change as its writer announced it.

    Attributes:
        op: what was done.
        revision: the map's revision with it.
        key: of what; ``""`` for "reset" and "destroy".
        value: the new value; ``""`` for all but "set".
    """

    op: Literal["set", "delete", "reset", "destroy"]
    revision: int
    key: str
    value: str


_OPS: Final[dict[Op, Literal["set", "delete", "reset", "destroy"]]] = {
    Op.SET: "set",
    Op.DELETE: "delete",
    Op.RESET: "reset",
    Op.DESTROY: "destroy",
}
_WHOLE: Final = frozenset({Op.RESET, Op.DESTROY})
_NO_KEYS: Final = frozenset({b"", REVISION_FIELD, KIND_FIELD})


async def find_maps(redis: Redis) -> list[str]:
    """Return the names of all maps, sorted; the whole keyspace is walked."""
    return await find_keys(redis, PREFIX, CONTENT_SUFFIX, kind="hash")


async def read_map(name: str, redis: Redis) -> StoredMap:
    """Return what the map `name` holds at this instant.

    Raises:
        InvalidNameError: no map can be called so.
    """
    key = content_key(name)
    content, left = await redis.execute_many([("HGETALL", key), ("PTTL", key)])
    fields = cast("dict[bytes, bytes]", value_or_raise(content))
    remaining = cast("int", left)
    kind = fields.pop(KIND_FIELD, None)
    return StoredMap(
        name=name,
        revision=_revision(fields.pop(REVISION_FIELD, None)),
        last_op=None if kind is None else decode_text(kind),
        expires_in=remaining / 1000 if remaining >= 0 else None,
        values={decode_text(field): decode_text(value) for field, value in fields.items()},
    )


@attrs.define(eq=False)
class Log(AsyncIterator[Update | Gap]):
    """The changes of a map from now on, in order; made by `open_log`."""

    _messages: Subscription

    async def __anext__(self) -> Update | Gap:
        """Wait for the next change; cancelling loses none."""
        while True:
            message = await anext(self._messages)
            if isinstance(message, Gap):
                return message
            with suppress(InvalidPayloadError):  # no writer of maps sent that
                change = decode_message(message.data)
                if change.key in _NO_KEYS and change.op not in _WHOLE:
                    continue
                return Update(
                    op=_OPS[change.op],
                    revision=change.revision,
                    key=decode_text(change.key),
                    value=decode_text(change.value),
                )


@asynccontextmanager
async def open_log(name: str, redis: Redis) -> AsyncGenerator[Log]:
    """Read every change of the map `name` from now on, for the time of a block.

    A `Gap` says that changes may be missing. What no writer of maps can have sent
    is left out.

    Raises:
        InvalidNameError: no map can be called so.
    """
    async with redis.subscribe(updates_channel(name)) as messages:
        yield Log(messages)


def _revision(text: bytes | None) -> int | None:
    try:
        return None if text is None else decode_revision(text)
    except InvalidPayloadError:
        return None
