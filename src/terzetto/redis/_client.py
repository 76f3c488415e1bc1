"""The client: redis-py's commands over Terzetto's links.

`Redis` is made by `connect` (`_connect.py`). It owns one shared link for
everything that neither blocks nor changes the connection, a link for each
`open_dedicated`, and one for pub/sub from the first subscription on.

The road of a command: `execute` -> `Link.request` -> the caller sleeps -> the
link's reader resumes it. No mailbox, no lock, no task is between.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, Literal, TypeVar, cast

import attrs
import trio
from redis.commands import AsyncCoreCommands
from redis.event import EventDispatcher
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from terzetto._shared._outcomes import value_or_raise
from terzetto.errors import InvalidOptionError
from terzetto.redis._actors import Keeper
from terzetto.redis._clock import measure_offset
from terzetto.redis._commands import Road, check_unit, road_of, shared
from terzetto.redis._dedicated import Dedicated
from terzetto.redis._leases import Leases
from terzetto.redis._link import Link
from terzetto.redis._lock import Lock, open_lock
from terzetto.redis._pipeline import Pipeline, Transaction
from terzetto.redis._posting import Posting
from terzetto.redis._pubsub import Hub, Subscription, topics_of
from terzetto.redis._refusals import named_by, refusal_of
from terzetto.redis._request import LinkStatistics, LinkStatus, State, lost, replies_of
from terzetto.redis._script import RegisteredScript, Script
from terzetto.redis._shape import Shaper, words
from terzetto.redis._shards import Shards
from terzetto.redis._url import Endpoint, Options
from terzetto.redis._watched_keys import Watching, transact
from terzetto.redis._wire import Arg, Reply, pack, pack_often

T = TypeVar("T")

_NO_MASTER_NOW: Final = "UNBLOCKED force unblock"  # a master that steps down ends what waits on it
_LONGEST_WAIT: Final = 10**6  # seconds


class Redis(Posting, AsyncCoreCommands):  # type: ignore[misc] # redis-py's own bases disagree
    """A client of one Redis server, for any number of tasks.

    The methods of redis-py's `AsyncCoreCommands` (`get`, `hset`, `xadd`, ...)
    are there with redis-py's return values, bytes or, with `decode_replies`, str;
    `execute` and its kin give plain RESP3 replies, always bytes. A command that
    waits on the server (BLPOP, XREAD BLOCK) gets a link of its own by itself.

    Every call may be cancelled at any time. A command that was not yet written
    is then never sent; one that was runs on the server without a witness.
    An outage is waited out by what was not yet written, so give calls a
    deadline (`trio.fail_after`) if they should not wait for ever.
    """

    _is_async_client: Literal[True] = True
    _event_dispatcher = EventDispatcher()  # redis-py's protocol asks for one; nothing is dispatched

    def __init__(self, options: Options, link: Link, keeper: Keeper) -> None:
        self._options = options
        self._link = link
        self._keeper = keeper
        self._subscriptions = None
        self._hub_lock = trio.Lock()
        self._leases = Leases(keeper, self)
        self._shaper = Shaper(decode=options.decode_replies)

    def __repr__(self) -> str:
        return f"<Redis {self.url} {self.state}>"

    def get_encoder(self) -> Any:  # noqa: ANN401 - redis-py's own
        """Return redis-py's encoder; some of its commands ask for it."""
        return self._shaper.encoder

    def get_connection_kwargs(self) -> dict[str, Any]:
        """Return what redis-py's commands want to know of connections: whether they decode."""
        return {"decode_responses": self._shaper.decode}

    @property
    def url(self) -> str:
        """Where the client is connected to, without user name and password."""
        return self._options.url

    @property
    def db(self) -> int:
        """The number of the database."""
        return self._options.db

    @property
    def state(self) -> State:
        """The state of the shared link: "connected", "reconnecting" or "closed"."""
        return self._link.status.state

    @property
    def status(self) -> LinkStatus:
        """The state of the shared link, since when, and why."""
        return self._link.status

    @property
    def max_backoff(self) -> float:
        """The longest wait between two attempts to reconnect, in seconds."""
        return self._options.max_backoff

    def statistics(self) -> LinkStatistics:
        """Return the figures of the shared link at this moment."""
        return self._link.statistics()

    async def wait_connected(self) -> None:
        """Wait until the shared link is connected; raises `LinkClosedError` if it is closed."""
        await self._link.wait_connected()

    async def wait_changed(self) -> LinkStatus:
        """Wait for the next change of `status` and return it."""
        return await self._link.wait_changed()

    @trio.lowlevel.enable_ki_protection
    async def execute(self, *args: Arg) -> Reply:
        """Run one command over the shared link and return its RESP3 reply.

        A str is sent as UTF-8 with surrogateescape. A command that waits on the
        server is cancelled as `Dedicated.execute` says.

        Raises:
            redis.exceptions.RedisError: the server's error reply.
            LinkLostError: the connection was lost after the command was written;
                reading commands are sent again instead.
            ReplyTooLongError: what a reading command asks for is more than `max_reply_bytes`;
                the connection was lost for that, for everybody.
            AuthError: the connection was lost, and the server refuses the credentials now.
            LinkClosedError: the client's block has been left.
            WrongLinkError: the command cannot share a link.
            InvalidPayloadError: an argument cannot be sent.
        """
        try:
            data = pack_often(args)
            repeatable = shared.get(args[0])
        except (TypeError, ValueError, IndexError):
            data = pack(args)  # which knows more, or says what is wrong
            repeatable = None
        if repeatable is None:
            road = road_of(args)
            if road is Road.BLOCKS:
                return await self._execute_blocking(args)
            repeatable = road is Road.READ
        reply = await self._link.request(data, repeatable)
        if isinstance(reply, Exception):
            return await self._again(data, reply, repeatable=repeatable)
        return reply

    async def execute_at_master(self, *args: Arg) -> Reply:
        """Run one command as `execute` does, but never at a replica, whatever `read_from` says."""
        return await self.execute(*args)

    async def execute_many(self, commands: Sequence[Sequence[Arg]]) -> list[Reply | RedisError]:
        """Run commands in order with one write; no command of others comes between.

        Error replies stand in their places. MULTI may stand first and EXEC last.

        Raises:
            LinkLostError, LinkClosedError, WrongLinkError, InvalidPayloadError: as in `execute`;
                nothing is known then of any of the replies.
        """
        units = [tuple(command) for command in commands]
        data = b"".join([pack(unit) for unit in units])
        check_unit(units)
        if not units:
            await trio.lowlevel.checkpoint()
            return []
        while True:
            replies = replies_of(await self._link.request_unit(data, len(units)))
            if not isinstance(replies[-1], Exception):
                return replies
            refusal = refusal_of(units, replies)
            if refusal is None or not await self.misplaced(refusal, self._link.endpoint):
                return replies
            self._link.retire(refusal)

    async def execute_replicated(
        self, commands: Sequence[Sequence[Arg]], *, replicas: int = 1, within: float = 1.0
    ) -> tuple[list[Reply | RedisError], int]:
        """Run commands with one write, and wait until replicas have what they wrote.

        In a cluster all keys must be in one slot. The link that this waits on is lent, so
        nobody else waits. Error replies stand in their places.

        Args:
            commands: what to run, in order.
            replicas: how many must have it.
            within: seconds to wait for them; more than 0.

        Returns:
            The replies, and how many replicas have it. Fewer than asked for is no error:
            a fail-over then may lose what was written.

        Raises:
            InvalidOptionError: `replicas` or `within` is out of its range.
            LinkLostError, LinkClosedError, WrongLinkError, InvalidPayloadError: as in
                `execute_many`.
        """
        if replicas < 1 or not 0 < within < _LONGEST_WAIT:
            raise InvalidOptionError(f"{replicas=}, {within=}: give 1 or more, and seconds")
        check_unit([tuple(command) for command in commands])
        wait = ("WAIT", replicas, math.ceil(within * 1000))
        slot = self._slot_of(commands)
        async with self._leases.lease(self._options_for(slot), slot) as dedicated:
            *replies, reached = await dedicated.execute_many([*commands, wait])
        return replies, cast("int", value_or_raise(reached))

    @trio.lowlevel.enable_ki_protection
    async def run_script(
        self, script: Script, *, keys: Sequence[Arg] = (), args: Sequence[Arg] = ()
    ) -> Reply:
        """Run a Lua script by its digest; send it whole if the server does not know it.

        Raises:
            redis.exceptions.RedisError: the script's own error, or the server's.
            LinkLostError, LinkClosedError, InvalidPayloadError: as in `execute`.
        """
        reply = await self._link.request(script.pack_call(keys, args))
        if isinstance(reply, Exception):
            whole = pack(("EVAL", script.source, len(keys), *keys, *args))
            if isinstance(reply, NoScriptError):
                reply = await self._link.request(whole)
            reply = await self._again(whole, reply, repeatable=False)
        return reply

    def register_script(self, script: str | bytes) -> RegisteredScript:  # type: ignore[override] # redis-py's wants a client of its own
        """Return a script that is called like a function: ``await script(keys=[...], args=[...])``.

        Its reply is bytes or, with `decode_replies`, str. `run_script` is the same for
        scripts in files.
        """
        source = script if isinstance(script, str) else script.decode()
        return RegisteredScript(Script("registered", source), self)

    async def call_script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:  # noqa: ANN401 - each script has its own reply
        """Run a script as `run_script` does, and shape its reply as redis-py's commands do.

        :meta private:
        """
        reply = await self.run_script(script, keys=keys, args=args)
        return self._shaper.shape(("EVALSHA",), reply, {})

    async def _again(self, data: bytes, reply: Reply, *, repeatable: bool) -> Reply:
        """Send a command again that this connection cannot serve; raise any other error.

        LOADING, NOAUTH and, from what should be a master, READONLY mean that the
        command was not carried out, and that a new connection may help: it waits
        for the data, authenticates, or finds the new master.
        """
        while isinstance(reply, Exception):
            if not await self.misplaced(reply, self._link.endpoint):
                raise reply
            self._link.retire(reply)
            reply = await self._link.request(data, repeatable)
        return reply

    async def misplaced(self, error: Exception, sender: Endpoint) -> bool:
        """Return True if this error reply of `sender` says that another connection could do it.

        :meta private:
        """
        del sender
        if isinstance(error, ReadOnlyError) or str(error).startswith(_NO_MASTER_NOW):
            locator = self._options.locator
            return locator is not None and locator.role == "master"
        if isinstance(error, AuthenticationError):
            return error.status_code == "NOAUTH"
        return isinstance(error, BusyLoadingError)

    def shared(self, endpoint: Endpoint) -> Link | None:
        """Return the shared link to a server, if there is one.

        :meta private:
        """
        return self._link if self._link.endpoint == endpoint else None

    async def _execute_blocking(self, args: tuple[Arg, ...]) -> Reply:
        async with self._leases.lease(self._options) as dedicated:
            return await dedicated.execute(*args)

    @asynccontextmanager
    async def elsewhere(self, error: AskError, sender: Endpoint) -> AsyncGenerator[Dedicated, None]:
        """Open a link to the server that a redirection names, for the time of a block.

        :meta private:
        """
        endpoint = named_by(error, sender)
        options = attrs.evolve(self._options, endpoint=endpoint, locator=None, source=None)
        link = Link(options, "asked")
        async with self._keeper.keep(link):
            yield Dedicated(link, self)

    def share_slot(self, *keys: str | bytes) -> bool:
        """Tell whether keys can be used in one command: in a cluster, those of one slot."""
        return len({self.slot_of(key) for key in keys}) <= 1

    def slot_of(self, key: str | bytes) -> int:
        """Return the slot of a key; keys of one slot can be used in one command.

        Always 0 where there is no cluster.
        """
        del key
        return 0

    def slot_owner(self, key: str | bytes) -> str | None:
        """Return the server that has a key now, as a URL without credentials.

        In a cluster this is the client's knowledge of the moment, corrected in the
        background; None while nobody serves the slot. Elsewhere it is the server
        of the shared link's last connection.
        """
        del key
        return str(self._link.endpoint)

    def _slot(self, keys: Sequence[Arg]) -> int:
        """Return where keys belong; there is one place only."""
        del keys
        return 0

    def _slot_of(self, commands: Sequence[Sequence[Arg]]) -> int:
        """Return the one slot of all keys of `commands`."""
        del commands
        return 0

    def _link_now(self, slot: int) -> Link | None:
        del slot
        return self._link

    def _options_for(self, slot: int) -> Options:
        """Return how to connect to where `slot` is."""
        del slot
        return self._options

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        """Run a command as redis-py's methods ask for it, and shape its reply as they do.

        Raises what `execute` raises.
        """
        reply: Reply
        try:
            reply = await self.execute(*words(args))
        except ResponseError as error:
            reply = error
        return self._shaper.shape(args, reply, options)

    def pipeline(self) -> Pipeline:
        """Return a pipeline: ``async with redis.pipeline() as pipe: pipe.set(...)``."""
        return Pipeline(self.execute_many, self._shaper)

    def transaction(self) -> Transaction:
        """Return a transaction without watched keys, used as a pipeline is.

        The server runs it as a whole. An error of one command does not undo the others.
        """
        return Transaction(self.execute_many, self._shaper)

    @asynccontextmanager
    async def watch_keys(self, *keys: str | bytes) -> AsyncGenerator[Watching, None]:
        """Watch keys for the time of a block, to read them and then write in a transaction.

        Raises:
            LinkLostError: the connection was lost; nothing was written.
            LinkClosedError: the client's block has been left.
        """
        slot = self._slot(keys)
        async with self._leases.lease(self._options_for(slot), slot) as dedicated:
            await dedicated.link.wait_connected()
            watching = Watching(dedicated, dedicated.link.epoch, self._shaper)
            (reply,) = await watching.send([("WATCH", *keys)])
            if isinstance(reply, Exception):
                if await dedicated.leaves(reply):
                    raise lost(str(reply), may_have_run=False)
                raise reply
            yield watching
            if not watching.done:
                await watching.send([("UNWATCH",)])

    async def transact(
        self,
        change: Callable[[Watching, Transaction], Awaitable[T]],
        *keys: str | bytes,
    ) -> T:
        """Read and write as if nobody else did, again and again until nobody else has.

        `change(now, then)` reads with the methods of `now`, which run at once, and
        gathers writes in `then`, which are carried out together after it has
        returned, if none of `keys` has changed meanwhile; else `change` is called
        anew. Returns what `change` returned. Give it a deadline if keys are busy.

        Raises:
            LinkLostError: `may_have_run` says whether the writes may have been done.
            Exception: what `change` raised; nothing was written then.
        """
        return await transact(partial(self.watch_keys, *keys), change)

    def open_lock(self, name: str, *, ttl: float = 30.0) -> AbstractAsyncContextManager[Lock]:
        """Hold a lock for the time of a block, among all processes that name it.

        Waits until it is free. It lives `ttl` seconds beyond the last sign of life
        of its holder, and is renewed while the block runs; a renewal that Redis refuses
        is tried again until then. It is given back when the block is left, also by an
        error or by cancelling; if Redis refuses that, it expires. Not reentrant.

        ``lock.token`` is a fencing token, greater than those of all holders before:
        let what the lock protects refuse a lower one, since a process that was
        paused for longer than `ttl` may wake up and believe that it holds the lock.

        Raises:
            LockLostError: the lock was lost while the block ran; the block was cancelled.
            redis.exceptions.RedisError: Redis refuses to give the lock.
            LinkClosedError, AuthError: as in `execute`, before the block.
            InvalidNameError: the name cannot be used, or begins with a closing brace.
            InvalidOptionError: `ttl` is not greater than 0, or more than 10**9.
        """
        return open_lock(self, self._keeper.run_for_block, name, ttl)

    async def server_time_offset(self, *, samples: int = 5) -> float:
        """Return by how many seconds the server's clock is ahead of `time.time()` here.

        The sample with the shortest way counts; it is right to half its round trip.
        """
        return await measure_offset(self.execute, samples)

    @asynccontextmanager
    async def open_dedicated(
        self, name: str, *, key: str | bytes | None = None
    ) -> AsyncGenerator[Dedicated, None]:
        """Open a link of one's own for the time of a block, for commands that block.

        `name` appears in logs and in reprs. `key` is one of the keys that it will be
        used for: in a cluster it says to which server the link leads, the owner of
        its slot, whoever that is at the time; elsewhere it is not needed. The link is
        opened in the background; the first call waits for it.
        """
        slot = self._slot(() if key is None else (key,))
        link = Link(self._options_for(slot), name)
        async with self._keeper.keep(link):
            yield Dedicated(link, self)

    @asynccontextmanager
    async def subscribe(
        self,
        *channels: str | bytes,
        patterns: Sequence[str | bytes] = (),
        sharded: bool = False,
        buffer_size: int = 1000,
    ) -> AsyncGenerator[Subscription, None]:
        """Subscribe to channels and patterns for the time of a block.

        Entering waits for the server's confirmation. The subscription is iterated:
        it yields `Message`, and `Gap` where messages may be missing, because there
        was an outage or more than `buffer_size` messages were not read in time.
        An outage is never an error.

        Raises:
            InvalidOptionError: nothing to subscribe to, a name that is neither str nor bytes,
                or `buffer_size` is below 1.
            InvalidPayloadError: a name cannot be sent.
            redis.exceptions.RedisError: the server refuses it (such as NoPermissionError).
            LinkClosedError: the client's block has been left.
        """
        keys = topics_of(channels, patterns, sharded=sharded)
        if not buffer_size >= 1:  # nor if it is NaN
            raise InvalidOptionError(f"buffer_size is {buffer_size}: it has to be 1 or more")
        hub = await self._sharded_hub() if sharded else await self._hub()
        async with hub.subscribe(keys, buffer_size) as subscription:
            yield subscription

    async def _hub(self) -> Hub:
        """Return what looks after subscriptions, started if need be."""
        async with self._hub_lock:
            if self._subscriptions is None:
                hub = Hub(self._options_for(self._slot(())), self.misplaced)
                await self._keeper.keep_hub(hub)
                self._subscriptions = hub
            return self._subscriptions

    async def _sharded_hub(self) -> Hub | Shards:
        """Return what looks after sharded subscriptions; without a cluster, the same."""
        return await self._hub()
