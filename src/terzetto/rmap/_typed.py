"""The face of a map: what users read, write and wait with.

A face survives the restarts of the map's actor, and stays readable after the map was
left. Reading never waits and never touches Redis; every write is one script, run in
the caller's task.

`_map` adds what only text and bytes have: lists and counters. Made by `join` and `child`.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from inspect import isawaitable, iscoroutine
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar, overload

import attrs
import trio

from terzetto.codec import Codec
from terzetto.errors import ClosedError, InvalidOptionError, InvalidPayloadError
from terzetto.redis import Reply, Script
from terzetto.rmap import _scripts
from terzetto.rmap._core import Core
from terzetto.rmap._keys import encode_key
from terzetto.rmap._replica import Change
from terzetto.rmap._slots import ChangeSlot, Slot, ValueSlot

V = TypeVar("V")
D = TypeVar("D")
R = TypeVar("R")
S = TypeVar("S", bound=Slot[Any])


@attrs.frozen
class Swap(Generic[V]):
    """What a conditional write found and did."""

    previous: V | None
    """The value before; None if the key was absent."""
    done: bool
    """Whether the condition held, so that the write was made."""


class TypedMap(Mapping[str, V], Generic[V]):
    """A replicated map of keys to values of one type.

    Reading is a look into this process's copy. Keys are text; bytes that are not UTF-8
    stand in it as surrogate escapes. A write returns when the server has committed it;
    this copy, like all others, follows shortly after (see `set_and_wait`).

    Every write raises `ClosedError` once the map was left (but `reset` and `destroy`),
    `InvalidNameError` for an empty key or one with ``=``, and `InvalidPayloadError` for
    a value that the codec refuses, in all cases before Redis is touched. While Redis is
    away it waits, unless the command was under way: then it raises
    `terzetto.redis.LinkLostError`, and its `may_have_run` is True, for nobody can tell
    whether it was committed. Cancelling a write that was sent leaves that open too.
    """

    def __init__(self, core: Core[V], codec: Codec[V]) -> None:
        self._core = core
        self._codec = codec
        self._encode = codec.encode
        self._values = core.replica.values

    def __repr__(self) -> str:
        state = "left" if self.is_closed else "stale" if self.stale_since else "live"
        return (
            f"<{type(self).__name__} {self.name!r} {len(self)} keys at revision "
            f"{self.revision}, {state}>"
        )

    # --- reading ------------------------------------------------------------------------

    def __getitem__(self, key: str) -> V:
        """Return the value of `key`.

        Raises:
            KeyError: it is absent.
            InvalidPayloadError: it is there, but the codec cannot read its value.
        """
        try:
            return self._values[key]
        except KeyError:
            self._check_readable(key)
            raise

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    @overload
    def get(self, key: str, /) -> V | None: ...
    @overload
    def get(self, key: str, /, default: V | D) -> V | D: ...
    def get(self, key: str, /, default: V | D | None = None) -> V | D | None:
        """Return the value of `key`, or `default` if it is absent or cannot be read."""
        return self._values.get(key, default)

    def keys(self) -> KeysView[str]:
        """Return a live view of the keys; it changes while you wait, so copy what you iterate."""
        return self._values.keys()

    def values(self) -> ValuesView[V]:
        """Return a live view of the values."""
        return self._values.values()

    def items(self) -> ItemsView[str, V]:
        """Return a live view of keys and values."""
        return self._values.items()

    def snapshot(self) -> dict[str, V]:
        """Return a copy of all keys and values, as they were at one revision."""
        return self._values.copy()

    @property
    def undecodable(self) -> Mapping[str, bytes]:
        """The stored bytes of the keys whose values the codec cannot read."""
        return MappingProxyType(self._core.replica.undecodable)

    @property
    def name(self) -> str:
        """The map's name."""
        return self._core.name

    @property
    def revision(self) -> int:
        """How many changes the server had counted when the content was as it is here."""
        return self._core.replica.revision

    @property
    def stale_since(self) -> datetime | None:
        """When this copy was last known to be exact, if it may not be now; None while it is.

        It is not exact while Redis is away or does not answer, while lost messages are
        being made up for, and after the map was left. The time is this machine's clock.
        That the connection of the messages alone is lost is known at once; that it hangs,
        `poll_interval` and a second later.
        """
        since = self._core.stale_since
        return None if since is None else datetime.fromtimestamp(since, UTC)

    @property
    def is_closed(self) -> bool:
        """Whether the map was left, so that the content no longer changes."""
        return self._core.is_closed

    # --- waiting ------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[AsyncIterator[Change]]:
        """Hear of changes for the time of a block.

        Iterating gives what happened since the last look: changes in between are
        merged and the strongest kind is told, `Change.RESET` before `Change.DELETE`
        before `Change.SET` (`Change` says what is told of an outage). The changes can be
        read when they are told. Iterating ends when the map is left. Never waiting for
        you, it may be left unread.
        """
        with self._slot(ChangeSlot()) as slot:
            yield slot

    @asynccontextmanager
    async def watch(self, key: str) -> AsyncGenerator[AsyncIterator[V | None]]:
        """Follow one key for the time of a block.

        Iterating gives the value that the key has now, then each further one; None
        while it is absent or cannot be read. Values in between are left out when you
        come late: the last one always comes. Iterating ends when the map is left.

        Raises:
            InvalidNameError: no map can have `key`: it is empty, or contains ``=``.
            TypeError: it is not a `str`.
        """
        encode_key(key)
        with self._slot(ValueSlot(key, self._values.get, self._encode)) as slot:
            yield slot

    async def wait_for(self, predicate: Callable[[Self], R]) -> R:
        """Wait until `predicate`, called with this map, returns something true; return that.

        It is called at once, and again after changes; a state that lasted only until
        the next change may be missed. What it raises comes out here.

        Raises:
            ClosedError: the map was left first.
            TypeError: `predicate` is async, or no function.
        """
        if not callable(predicate):
            raise TypeError(f"a predicate is a function of the map, not {predicate!r}")
        with self._slot(ChangeSlot()) as changes:
            await trio.lowlevel.checkpoint()
            while not (result := predicate(self)):
                try:
                    await anext(changes)
                except StopAsyncIteration:
                    raise ClosedError(
                        f"the map {self.name!r} was left before what was waited for came true"
                    ) from None
            if isawaitable(result):  # such as a coroutine, which is true whatever it returns
                if iscoroutine(result):
                    result.close()
                raise TypeError("the predicate of wait_for is async: give a plain function")
            return result

    async def sync(self) -> None:
        """Wait until this copy has all that was committed, by anybody, before this call.

        What is read then is as fresh as if it were read from the server. After a write
        raised `LinkLostError` it shows whether the write was made. It takes one round
        trip; where the connection of the messages does not answer, or on a cluster is
        another node's than the map's, the whole map is read again.

        Raises:
            ClosedError: the map was left, or is left while waiting.
            redis.exceptions.ResponseError: the server does not let the map be read.
        """
        self._core.check_open()
        await self._core.sync()

    # --- writing ------------------------------------------------------------------------

    async def set(self, key: str, value: V) -> V | None:
        """Set `key`; return the value before, None if it was absent or cannot be read."""
        existed, previous, _ = await self._run(_scripts.SET, encode_key(key), self._encode(value))
        return self._decode_previous(previous) if existed else None

    async def set_and_wait(self, key: str, value: V) -> V | None:
        """Set `key` and wait until this copy has that change; return the value before.

        By then the copy may be ahead: somebody may have written the key again.

        Raises:
            ClosedError: also if the map is left while waiting; the change is committed then.
        """
        core, name, stored = self._core, encode_key(key), self._encode(value)
        pending = core.replica.expect_set(name, stored)
        try:
            existed, previous, revision = await self._run(_scripts.SET, name, stored)
            await core.wait_for_set(pending, int(revision))
        finally:
            core.replica.forget_set(pending)
        return self._decode_previous(previous) if existed else None

    async def set_if_absent(self, key: str, value: V) -> bool:
        """Set `key` only if it is absent; return whether it was set."""
        done = await self._run(_scripts.SET_IF_ABSENT, encode_key(key), self._encode(value))
        return bool(done)

    async def test_and_set(self, key: str, test: V, value: V) -> Swap[V]:
        """Set `key` only if it holds `test`; the stored bytes are compared."""
        stored = self._encode(test)
        return self._swap(
            stored,
            await self._run(_scripts.TEST_AND_SET, encode_key(key), stored, self._encode(value)),
        )

    async def delete(self, key: str) -> V | None:
        """Delete `key`; return the value before, None if it was absent or cannot be read."""
        return self._decode_previous(await self._run(_scripts.DELETE, encode_key(key)))

    async def test_and_delete(self, key: str, test: V) -> Swap[V]:
        """Delete `key` only if it holds `test`; the stored bytes are compared."""
        stored = self._encode(test)
        return self._swap(
            stored, await self._run(_scripts.TEST_AND_DELETE, encode_key(key), stored)
        )

    async def test_and_reset(self, keys: Sequence[str], tests: Sequence[V]) -> bool:
        """Remove every key if each of `keys` holds its value in `tests`; return whether it did.

        Raises:
            InvalidOptionError: there are not as many tests as keys.
        """
        if len(keys) != len(tests):
            raise InvalidOptionError(
                f"{len(keys)} keys and {len(tests)} tests: give one value for each key"
            )
        names = [encode_key(key) for key in keys]
        values = [self._encode(test) for test in tests]
        return bool(await self._run(_scripts.TEST_AND_RESET, len(keys), *names, *values))

    async def reset(self) -> None:
        """Remove every key. It works also after the map was left."""
        await self._core.run(_scripts.RESET)

    async def destroy(self) -> None:
        """Remove every key because the map's use has ended; subscribers hear of a reset.

        Those who are in the map stay in it, and it can be filled again: the server
        keeps its revision. It works also after the map was left.
        """
        await self._core.run(_scripts.DESTROY)

    # --- inside -------------------------------------------------------------------------

    def _run(self, script: Script, *args: bytes | int) -> Awaitable[Reply]:
        core = self._core
        if core.is_closed:
            core.check_open()
        return core.run(script, *args)

    def _decode_previous(self, stored: bytes | None) -> V | None:
        """Decode what was there before; the write is committed, so nothing may raise here."""
        if stored is None:
            return None
        try:
            return self._core.replica.decode(stored)
        except InvalidPayloadError:
            return None

    def _swap(self, test: bytes, previous: bytes | None) -> Swap[V]:
        return Swap(self._decode_previous(previous), previous == test)

    def _check_readable(self, key: str) -> None:
        stored = self._core.replica.undecodable.get(key)
        if stored is not None:
            try:
                self._codec.decode(stored)
            except InvalidPayloadError as error:
                raise InvalidPayloadError(
                    f"the value of {key!r} in the map {self.name!r} cannot be read: {error}"
                ) from error

    @contextmanager
    def _slot(self, slot: S) -> Generator[S]:
        slots = self._core.slots
        slots[slot] = None
        if self.is_closed:
            slot.end()
        try:
            yield slot
        finally:
            del slots[slot]
            slot.end()
