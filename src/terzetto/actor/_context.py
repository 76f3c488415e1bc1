"""The context: what an actor may do as itself, and the spawning that it shares with supervisors.

A context is given to `Actor.started` and `Actor.run`; it may be kept for as
long as the life lasts. Background tasks and timers belong to the life: they end
with it, after `Actor.stopping`, and a crash of one is the actor's crash.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import attrs
import trio

from terzetto._shared._logging import Logger
from terzetto.actor._actor import Actor
from terzetto.actor._cell import ActorCell
from terzetto.actor._checks import check_seconds
from terzetto.actor._errors import ActorStoppedError, SpecError
from terzetto.actor._handle import Supervisor, as_spec
from terzetto.actor._ref import Ref
from terzetto.actor._supervisor import SupervisorCell
from terzetto.actor._tree import Child, Tree
from terzetto.actor._types import Restart

A_co = TypeVar("A_co", bound=Actor, covariant=True)
B = TypeVar("B", bound=Actor)
T = TypeVar("T")
P = ParamSpec("P")


@attrs.frozen(eq=False)
class Timer:
    """A timer of an actor; it ends with the actor's life at the latest."""

    _scope: trio.CancelScope

    def cancel(self) -> None:
        """Send no more messages; one that has been sent stays sent."""
        self._scope.cancel()


@attrs.frozen(eq=False, repr=False)
class Context(Generic[A_co]):
    """What an actor of type `A_co` may do as itself."""

    _cell: ActorCell

    @property
    def ref(self) -> Ref[A_co]:
        """The actor's own ref."""
        return Ref(self._cell)

    @property
    def name(self) -> str:
        """The actor's name among its siblings."""
        return self._cell.name

    @property
    def path(self) -> str:
        """The names from the root down to the actor, joined by slashes."""
        return self._cell.path

    @property
    def log(self) -> Logger:
        """A logger that adds the actor's path."""
        return self._cell.system.logger.bind(actor=self._cell.path)

    async def deadline(self) -> float:
        """Return until when the asker of the message in hand waits, on trio's clock.

        Infinity when the message was told, minus infinity when its asker has
        left. It includes the deadline of whoever asked the asker. Nothing is
        cancelled when it passes: a handler that has no use for its work then,
        opens a cancel scope with this deadline itself.
        """
        return await self._cell.deadline()

    def stop(self) -> None:
        """End this actor normally once the message in hand is done.

        What waits in the mailbox is handed back. A ``"permanent"`` actor is
        started again, and its mailbox is kept.
        """
        self._cell.stop_self()

    def start_soon(
        self,
        async_fn: Callable[..., Awaitable[object]],
        /,
        *args: Any,  # noqa: ANN401 - as trio's own
        name: str | None = None,
    ) -> trio.CancelScope:
        """Start a background task of this actor; return a scope that ends it when cancelled.

        It runs until it returns, or until `Actor.stopping` has returned, then
        it is cancelled. If it raises, the actor crashes with that error.

        Raises:
            ActorStoppedError: the actor's life is over.
        """
        name = name or _name_of(async_fn)
        return self._cell.background(name).start_soon(async_fn, args, name)

    async def start(
        self,
        async_fn: Callable[..., Awaitable[object]],
        /,
        *args: Any,  # noqa: ANN401 - as trio's own
        name: str | None = None,
    ) -> Any:  # noqa: ANN401 - as trio's own
        """Start a background task and wait until it calls ``task_status.started(value)``.

        Returns `value`. What it raises before that comes out here. Cancelling
        this cancels the task, if it has not started yet.

        Raises:
            ActorStoppedError: the actor's life is over.
        """
        name = name or _name_of(async_fn)
        return await self._cell.background(name).start(async_fn, args, name)

    def after(
        self,
        seconds: float,
        method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, Any]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Timer:
        """Tell oneself this message once, `seconds` from now.

        Raises:
            SpecError: `seconds` is negative or not finite.
            MessageError: `method` is no message of this actor.
        """
        check_seconds("a timer: seconds", seconds)
        self._cell.handler(method)

        async def tell_later() -> None:
            await trio.sleep(seconds)
            await self.ref.tell(method, *args, **kwargs)

        return self._timer(tell_later, f"after {seconds:g} s")

    def every(
        self,
        seconds: float,
        method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, Any]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Timer:
        """Tell oneself this message again and again, the first time `seconds` from now.

        A tick that finds the mailbox full waits for room, and the ticks that
        fall due meanwhile are left out: they never pile up.

        Raises:
            SpecError: `seconds` is not above 0, or not finite.
            MessageError: `method` is no message of this actor.
        """
        check_seconds("a timer: seconds", seconds)
        if seconds == 0:
            raise SpecError("every(0) would never rest: give more than 0 seconds")
        self._cell.handler(method)

        async def tell_again() -> None:
            due = trio.current_time()
            while True:
                due = max(due + seconds, trio.current_time())
                await trio.sleep_until(due)
                await self.ref.tell(method, *args, **kwargs)

        return self._timer(tell_again, f"every {seconds:g} s")

    def _timer(self, run: Callable[[], Awaitable[None]], name: str) -> Timer:
        scope = trio.CancelScope()

        async def in_scope() -> None:
            with scope:
                try:
                    await run()
                except ActorStoppedError:
                    return  # the actor is closing: nobody wants the message any more

        self._cell.background(name).start_soon(in_scope, (), name)
        return Timer(scope)

    @overload
    async def spawn(
        self,
        child: Callable[[], B],
        *,
        name: str | None = None,
        restart: Restart = "transient",
        grace: float = 5.0,
        mailbox: int = 100,
        significant: bool = False,
    ) -> Ref[B]: ...

    @overload
    async def spawn(self, child: Child[T]) -> T: ...

    @overload
    async def spawn(self, child: Tree) -> Supervisor: ...

    async def spawn(self, child: Any, **options: Any) -> Any:
        """Start a child under this actor; returns once it has started.

        Takes what `Supervisor.spawn` takes, and raises what it raises. Children
        stop before the actor's own `Actor.stopping`, the last one first. They
        are supervised one for one with the default limits; when those are used
        up, this actor crashes with the child's error. For other rules spawn a
        `Tree`. A restart of this actor starts without them.
        """
        spec = as_spec(child, options)
        return await self._children().spawn(spec)

    def _children(self) -> SupervisorCell:
        cell = self._cell
        if not cell.is_open:
            raise ActorStoppedError(f"{cell.path!r} is stopping: it can spawn no children")
        if cell.children is None:
            cell.children = SupervisorCell.under(cell)
        return cell.children

    def __repr__(self) -> str:
        return f"<Context {self.path} {self._cell.state}>"


def _name_of(async_fn: object) -> str:
    return getattr(async_fn, "__name__", None) or type(async_fn).__name__
