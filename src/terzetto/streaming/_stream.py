"""A stream: adding, removing and looking at events, and opening readers and sinks.

`Stream` holds a name, a link and settings, and no state: making one touches
nothing in Redis, and any number may stand for the same stream. Adding goes to
the link directly, without an actor in between.

The expiry of a stream is armed as on Go's side: after each add that added
something, and after a sink made its group.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar, cast

import attrs
from redis.exceptions import RedisError, ResponseError

from terzetto._shared._encoding import decode_text
from terzetto._shared._logging import Logger, default_logger
from terzetto.actor import Child, open_child
from terzetto.codec import Codec
from terzetto.redis import Arg, Redis, Reply
from terzetto.streaming._checkpoint import Checkpoint
from terzetto.streaming._dead import DeadLetters
from terzetto.streaming._event import NewEvent, encode_entry, parts_of
from terzetto.streaming._filters import Matcher
from terzetto.streaming._gap import Gap
from terzetto.streaming._intake import Intake
from terzetto.streaming._names import (
    check_event_name,
    check_sink_name,
    check_stream_name,
    consumers_map,
    stream_key,
)
from terzetto.streaming._options import (
    ReadOptions,
    check_count,
    check_grace,
    check_length,
    check_seconds,
    whole_seconds,
)
from terzetto.streaming._positions import NEWEST, Start, parse_id
from terzetto.streaming._reader import Reader, make_reader_child
from terzetto.streaming._reading import run_reading
from terzetto.streaming._reclaim import run_claims
from terzetto.streaming._scripts import EDGES, MapWriter
from terzetto.streaming._sink import Sink, make_sink_child
from terzetto.streaming._typed import TypedStream

T = TypeVar("T")

_CHUNK: Final = 500  # events in one write; a longer one would hold up the others on the link


@attrs.frozen(kw_only=True)
class GroupInfo:
    """A sink of a stream, as the server sees it.

    Attributes:
        name: the sink's name.
        consumers: how many instances it has, dead ones that were not swept yet included.
        pending: how many events were delivered and not acknowledged.
        last_delivered_id: the id of the last event that was delivered for the first time.
        lag: how many events were not delivered yet; None if the server cannot tell.
    """

    name: str
    consumers: int
    pending: int
    last_delivered_id: str
    lag: int | None


@attrs.frozen(kw_only=True)
class StreamInfo:
    """What a stream holds.

    Attributes:
        length: how many events there are.
        added: how many were ever added.
        first_id: the id of the oldest event; ``"0-0"`` if there is none.
        last_id: the greatest id that any event ever had.
        groups: its sinks.
    """

    length: int
    added: int
    first_id: str
    last_id: str
    groups: tuple[GroupInfo, ...]


class Stream:
    """A stream of events in Redis, by name."""

    def __init__(
        self,
        name: str,
        redis: Redis,
        *,
        max_len: int = 1000,
        ttl: float | None = None,
        sliding: bool = False,
        logger: Logger | None = None,
    ) -> None:
        """Stand for the stream `name`; nothing is written yet.

        Args:
            name: its name, up to 499 characters without spaces and ``* ? [ ]``.
            redis: the link that this stream, its readers and its sinks use.
            max_len: about how many events to keep; adding trims the oldest,
                read or not, in steps of the server's choice. 0: all.
            ttl: seconds until the stream expires, cut to whole ones, at least 1;
                None or 0: never.
            sliding: each add starts the `ttl` again; otherwise the first one counts.
            logger: takes what this stream's readers and sinks have to say.

        Raises:
            InvalidNameError: no stream can have this name.
            InvalidOptionError: `ttl` is negative or not finite, or `max_len` no whole number
                from 0 on.
            TypeError: `redis` is no client.
        """
        self.name = check_stream_name(name)
        if not isinstance(redis, Redis):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(f"a stream needs a client of terzetto.connect(), not {type(redis)!r}")
        self.redis = redis
        self.max_len = check_length("max_len", max_len)
        self.ttl = whole_seconds("ttl", ttl)
        self.sliding = sliding
        self.logger = (logger or default_logger("streaming")).bind(stream=name)
        self.key = stream_key(name)
        trim: tuple[Arg, ...] = ("MAXLEN", "~", self.max_len) if self.max_len > 0 else ()
        self._head: tuple[Arg, ...] = ("XADD", self.key, *trim, "*")
        self._head_if_exists: tuple[Arg, ...] = ("XADD", self.key, "NOMKSTREAM", *trim, "*")

    def __repr__(self) -> str:
        return f"<Stream {self.name!r}>"

    def consumers(self) -> MapWriter:
        """Return a writer of the map that lists the consumers of this stream's sinks.

        :meta private:
        """
        return MapWriter(self.redis, consumers_map(self.name), ttl=self.ttl, sliding=self.sliding)

    async def add(
        self, name: str, payload: bytes, *, topic: str | None = None, only_if_exists: bool = False
    ) -> str | None:
        """Add an event; return its id.

        Args:
            name: what happened; not empty.
            payload: any bytes, of any length up to the server's limit (512 MB).
            topic: what readers may filter by; None or ``""`` is no topic.
            only_if_exists: do not make the stream; return None if it is missing.

        Raises:
            InvalidNameError: the name is empty, or it or the topic cannot be written as UTF-8.
            TypeError: name or topic is no str, or the payload no bytes.
            LinkLostError: the reply was lost; with `may_have_run` the event may
                have been added, and adding again may double it.

        Cancelling before the command was written adds nothing; later it may
        have been added.
        """
        command = self._command(name, payload, topic, only_if_exists=only_if_exists)
        if not self.ttl:
            reply = await self.redis.execute(*command)
        else:
            replies = await self.redis.execute_many([command, self.expire_command()])
            for answer in replies:
                if isinstance(answer, RedisError):
                    raise answer
            reply = cast("Reply", replies[0])
        return None if reply is None else str(reply, "ascii")

    async def add_many(
        self, events: Iterable[NewEvent], *, only_if_exists: bool = False
    ) -> list[str | None]:
        """Add events in order; return their ids.

        They go out in writes of up to 500 events, and nothing comes between the
        events of one write. With `only_if_exists`, ids are None while the stream
        is missing. Cancelling: the events of earlier writes were added, those of the
        write under way may have been, and the others were not.

        Raises:
            InvalidNameError, TypeError: as for `add`, for any event, or one is no tuple
                of name, payload and topic; nothing was added.
            LinkLostError: as for `add`, for the write under way and those after it.
        """
        commands = [
            self._command(*parts_of(event), only_if_exists=only_if_exists) for event in events
        ]
        ids: list[str | None] = []
        for start in range(0, len(commands), _CHUNK):
            chunk = commands[start : start + _CHUNK]
            if self.ttl:
                chunk.append(self.expire_command())
            for reply in await self.redis.execute_many(chunk):
                if isinstance(reply, RedisError):
                    raise reply
                if not isinstance(reply, int):  # the expiry's answer is a number
                    ids.append(None if reply is None else str(reply, "ascii"))
        return ids

    def _command(
        self, name: str, payload: bytes, topic: str | None, *, only_if_exists: bool
    ) -> list[Arg]:
        if not isinstance(payload, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
        if topic is not None and not isinstance(topic, str):  # pyright: ignore[reportUnnecessaryIsInstance] - likewise
            raise TypeError(f"a topic is a str, not {type(topic).__name__}")
        head = self._head_if_exists if only_if_exists else self._head
        return [*head, *encode_entry(check_event_name(name), payload, topic)]

    def expire_command(self) -> list[Arg]:
        """Return the command that arms the expiry; only for a stream that has one."""
        command: list[Arg] = ["EXPIRE", self.key, self.ttl]
        return command if self.sliding else [*command, "NX"]

    async def remove(self, *event_ids: str) -> int:
        """Delete events; return how many there were.

        Readers do not see them any more. For sinks that have them pending they
        are gone as well: the next claim drops them. Cancelling leaves it open whether
        they were deleted; it can be done again.

        Raises:
            InvalidOptionError: an id is none.
            TypeError: an id is no str.
        """
        if not event_ids:
            return 0
        for event_id in event_ids:
            parse_id(event_id)
        removed: int = await self.redis.execute("XDEL", self.key, *event_ids)
        return removed

    async def destroy(self) -> None:
        """Delete the stream with all its events, its sinks' groups and their consumers' map.

        The map is emptied; its two fields of bookkeeping (``=rev``, ``=kind``) stay, as
        the wire asks for, so that copies of it elsewhere notice. Dead letters stay.
        Readers and sinks that are open go on: a reader sees what is added to a stream
        of this name from then on, and a sink makes its group again at its next read.
        Cancelling may delete the stream and leave the map; it can be done again.
        """
        await self.redis.execute("DEL", self.key)
        await self.consumers().destroy()

    async def length(self) -> int:
        """Return how many events there are; 0 if the stream does not exist."""
        length: int = await self.redis.execute("XLEN", self.key)
        return length

    async def info(self) -> StreamInfo:
        """Return what the stream holds; all zero if it does not exist."""
        exists, first, last, added, length = await self.redis.run_script(
            EDGES, keys=[self.key], args=[]
        )
        groups: list[dict[bytes, Any]] = []
        try:
            if exists:
                groups = await self.redis.execute("XINFO", "GROUPS", self.key)
        except ResponseError as error:
            if "no such key" not in str(error):
                raise  # otherwise it went between the two looks
        return StreamInfo(
            length=length,
            added=added,
            first_id=str(first, "ascii"),
            last_id=str(last, "ascii"),
            groups=tuple(
                GroupInfo(
                    name=decode_text(group[b"name"]),
                    consumers=group[b"consumers"],
                    pending=group[b"pending"],
                    last_delivered_id=str(group[b"last-delivered-id"], "ascii"),
                    lag=group.get(b"lag"),
                )
                for group in groups
            ),
        )

    def typed(self, codec: Codec[T]) -> TypedStream[T]:
        """Return this stream with values of one type for payloads, as `codec` writes them."""
        return TypedStream(self, codec)

    @property
    def dead_letters(self) -> DeadLetters:
        """The events of this stream that sinks gave up."""
        return DeadLetters(self)

    def open_reader(
        self,
        *,
        start: Start = NEWEST,
        topic: str | None = None,
        topic_pattern: str | None = None,
        matcher: Matcher | None = None,
        block: float = 5.0,
        max_polled: int = 1000,
        buffer_size: int = 1000,
        checkpoint: Checkpoint | None = None,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AbstractAsyncContextManager[Reader]:
        """Read every event for the time of a block.

        Entering finds the start, so that an event added after it is seen.
        Leaving closes the reader. The options are those of `reader_child`.
        """
        return open_child(
            self.reader_child(
                start=start,
                topic=topic,
                topic_pattern=topic_pattern,
                matcher=matcher,
                block=block,
                max_polled=max_polled,
                buffer_size=buffer_size,
                checkpoint=checkpoint,
                on_gap=on_gap,
            )
        )

    def reader_child(
        self,
        *,
        start: Start = NEWEST,
        topic: str | None = None,
        topic_pattern: str | None = None,
        matcher: Matcher | None = None,
        block: float = 5.0,
        max_polled: int = 1000,
        buffer_size: int = 1000,
        checkpoint: Checkpoint | None = None,
        on_gap: Callable[[Gap], None] | None = None,
        name: str | None = None,
    ) -> Child[Reader]:
        """Return the spec of a reader, for a tree of one's own.

        Args:
            start: `NEWEST`, `OLDEST`, an id to begin after, or an aware datetime
                to begin on or after.
            topic: the topic that an event must have.
            topic_pattern: an RE2 expression to find in the topic; `topic` wins.
            matcher: a function of the event; an event for which it raises is
                logged, counted in `Reader.skipped` and left out.
            block: how long one poll waits on the server, in seconds; 0 is for ever.
            max_polled: how many events one poll brings at most.
            buffer_size: how many events wait for a taker at most; one more of each stream
                where there are many.
            checkpoint: where `Reader.save` keeps the place; if it holds one,
                that is the start.
            on_gap: called with each gap; what it raises crashes the reader.
            name: the actor's name in the tree.

        Raises:
            InvalidOptionError: an option is out of its range (`InvalidPatternError`
                for the pattern); Redis was not touched.
        """
        options = ReadOptions(
            start=start,
            topic=topic,
            topic_pattern=topic_pattern,
            matcher=matcher,
            block=block,
            max_polled=max_polled,
            buffer_size=buffer_size,
        )
        return make_reader_child(
            self, options, name=name, checkpoint=checkpoint, on_gap=on_gap, logger=self.logger
        )

    def open_sink(
        self,
        name: str,
        *,
        start: Start = NEWEST,
        topic: str | None = None,
        topic_pattern: str | None = None,
        matcher: Matcher | None = None,
        block: float = 5.0,
        max_polled: int = 1000,
        buffer_size: int = 1000,
        ack_grace_period: float = 20.0,
        no_ack: bool = False,
        max_deliveries: int | None = None,
        retry_base: float = 0.1,
        close_grace: float = 5.0,
    ) -> AbstractAsyncContextManager[Sink]:
        """Share events with the other instances of the sink `name`, for the time of a block.

        Leaving hands back at once what was delivered here and not acknowledged.
        The options are those of `sink_child`.
        """
        return open_child(
            self.sink_child(
                name,
                start=start,
                topic=topic,
                topic_pattern=topic_pattern,
                matcher=matcher,
                block=block,
                max_polled=max_polled,
                buffer_size=buffer_size,
                ack_grace_period=ack_grace_period,
                no_ack=no_ack,
                max_deliveries=max_deliveries,
                retry_base=retry_base,
                close_grace=close_grace,
            )
        )

    def sink_child(
        self,
        name: str,
        *,
        start: Start = NEWEST,
        topic: str | None = None,
        topic_pattern: str | None = None,
        matcher: Matcher | None = None,
        block: float = 5.0,
        max_polled: int = 1000,
        buffer_size: int = 1000,
        ack_grace_period: float = 20.0,
        no_ack: bool = False,
        max_deliveries: int | None = None,
        retry_base: float = 0.1,
        close_grace: float = 5.0,
        child_name: str | None = None,
    ) -> Child[Sink]:
        """Return the spec of a sink instance, for a tree of one's own.

        Args:
            name: the sink's name, up to 497 characters without spaces and
                ``* ? [ ] =``; instances with the same name share the events.
            start: where the sink begins if this is its first instance ever;
                see `reader_child`.
            topic: see `reader_child`; events that are left out are acknowledged.
            topic_pattern: likewise.
            matcher: likewise; an event for which it raises is a dead letter.
            block: see `reader_child`.
            max_polled: see `reader_child`.
            buffer_size: see `reader_child`.
            ack_grace_period: seconds after which an event that was not
                acknowledged comes again, 0.01 or more; all instances need the same.
            no_ack: take events as acknowledged when they are read: each comes
                once at most.
            max_deliveries: after so many deliveries without an acknowledgement
                an event goes to the dead letters; None never gives up. What a
                process had read when it was killed was delivered, too. With `no_ack` it
                bounds the tries of `handle` in order, for nothing is delivered twice.
            retry_base: how long an event rests that failed once in `process`,
                in seconds; it doubles with each delivery, up to the grace period.
            close_grace: how long closing waits for `process` blocks to end, in
                seconds.
            child_name: the actor's name in the tree.

        Raises:
            InvalidNameError: no sink can have this name.
            InvalidOptionError: an option is out of its range (`InvalidPatternError`
                for the pattern), or, on a cluster, the stream's name has no ``{tag}``;
                Redis was not touched.
        """
        options = ReadOptions(
            start=start,
            topic=topic,
            topic_pattern=topic_pattern,
            matcher=matcher,
            block=block,
            max_polled=max_polled,
            buffer_size=buffer_size,
        )
        intake = Intake(
            self.redis,
            check_sink_name(name),
            options,
            grace=check_grace("ack_grace_period", ack_grace_period),
            no_ack=no_ack,
            max_deliveries=None
            if max_deliveries is None
            else check_count("max_deliveries", max_deliveries),
            logger=self.logger.bind(sink=name),
            loops={"claims": run_claims, "reading": run_reading},
        )
        return make_sink_child(
            self,
            intake,
            name=child_name,
            retry_base=check_seconds("retry_base", retry_base, zero=True),
            close_grace=check_seconds("close_grace", close_grace, zero=True),
        )
