"""Pipelines and transactions: commands that are gathered and sent in one piece.

A pipeline is one unit of the shared link, so no command of others comes
between. A transaction is a unit with MULTI and EXEC around it; only one that
watches keys needs a link of its own, because WATCH holds for a connection.
Made by `Redis.pipeline`, `Redis.transaction` and `Redis.watch_keys`.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Literal, Self

from redis.commands import AsyncCoreCommands
from redis.event import EventDispatcher
from redis.exceptions import ExecAbortError, WatchError

from terzetto.errors import TerzettoError
from terzetto.redis._commands import check_unit
from terzetto.redis._shape import Shaper, words
from terzetto.redis._wire import Arg, Reply, nameless

SendUnit = Callable[[Sequence[Sequence[Arg]]], Awaitable[list[Reply]]]


class UnsentError(TerzettoError, RuntimeError):
    """The result of a queued command was asked for before it was sent, or was not waited for."""


class Queued:
    """The result of a command in a pipeline: await it after that has been sent.

    Awaiting gives the reply as the command's method does, or raises the error
    reply; it never waits. Before, it raises `UnsentError`. If the pipeline came to
    nothing as a whole, it raises what `Pipeline.execute` or the block did (such as
    `LinkLostError`, which says whether it may have run).
    """

    __slots__ = ("_args", "_error", "_value")

    def __init__(self, args: tuple[Any, ...]) -> None:
        self._args = args
        self._value: Any = None
        self._error: Exception | None = UnsentError(
            f"{args[0]!r} has not been sent: await its result after the pipeline's block"
        )

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()  # a generator, as awaiting wants one
        if self._error is not None:
            raise self._error
        return self._value

    def settle(self, value: object) -> None:
        """Note the reply, or the error."""
        self._error = value if isinstance(value, Exception) else None
        self._value = value

    def fail(self, error: BaseException) -> None:
        """Note why there is no reply: what the sending ended with."""
        self._error = (
            error
            if isinstance(error, Exception)
            else UnsentError(f"{self._args[0]!r} was cancelled while it was sent: it may have run")
        )

    def __repr__(self) -> str:
        return f"<Queued {self._args[0]!r}>"


class Pipeline(AsyncCoreCommands):
    """Commands that are gathered, and sent together when the block is left.

    Its methods are redis-py's, but only gather: what they return (a `Queued`) is
    awaited after the block. If the block raises or is cancelled, what is gathered is not sent.
    """

    _is_async_client: Literal[True] = True
    _event_dispatcher = EventDispatcher()  # redis-py's protocol asks for one

    def __init__(self, send: SendUnit, shaper: Shaper) -> None:
        self._send = send
        self._shaper = shaper
        self._queued: list[tuple[tuple[Any, ...], dict[str, Any], Queued]] = []

    def __len__(self) -> int:
        return len(self._queued)

    def __bool__(self) -> bool:
        """A pipeline is one even while it is empty."""
        return True

    def get_encoder(self) -> Any:  # noqa: ANN401 - redis-py's own
        """Return redis-py's encoder; some of its commands ask for it."""
        return self._shaper.encoder

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        """Gather a command; return its `Queued`.

        Raises:
            InvalidPayloadError: it has no name.
        """
        if not args:
            raise nameless()
        queued = Queued(args)
        self._queued.append((args, options, queued))
        return queued

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """Send what was gathered; return the results in order.

        The pipeline is empty then and can be used again. Cancelling before it is
        written withdraws all of it; later, all of it runs.

        Args:
            raise_on_error: raise the first error reply, after all have been noted in
                their `Queued`; if False, errors stand in the list.

        Raises:
            redis.exceptions.RedisError: an error reply.
            LinkLostError, LinkClosedError, WrongLinkError, InvalidPayloadError: as in
                `Redis.execute_many`.
        """
        queued, self._queued = self._queued, []
        try:
            replies = await self._run([words(args) for args, _, _ in queued])
        except BaseException as error:  # raised again: what was queued has to say why, too
            for _, _, handle in queued:
                handle.fail(error)
            raise
        results: list[Any] = []
        for (args, options, handle), reply in zip(queued, replies, strict=True):
            try:
                result = self._shaper.shape(args, reply, options)
            except Exception as error:  # noqa: BLE001 - an error reply, or redis-py's callback's own
                result = error
            handle.settle(result)
            results.append(result)
        if raise_on_error:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results

    async def _run(self, commands: list[tuple[Arg, ...]]) -> list[Reply]:
        check_unit(commands)
        return await self._send(commands)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self._queued:
            await self.execute()
        self._queued.clear()


class Transaction(Pipeline):
    """A pipeline that the server runs as a whole or, if a command is malformed, not at all."""

    async def _run(self, commands: list[tuple[Arg, ...]]) -> list[Reply]:
        unit: list[tuple[Arg, ...]] = [("MULTI",), *commands, ("EXEC",)]
        check_unit(unit)
        *acknowledged, replies = await self._send(unit)
        if isinstance(replies, ExecAbortError):
            for reply in acknowledged:
                if isinstance(reply, Exception):
                    raise replies from reply
        if isinstance(replies, Exception):
            raise replies
        if replies is None:
            raise WatchError("a watched key was changed by somebody else: nothing was done")
        return list(replies)
