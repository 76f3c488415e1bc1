"""The background tasks of one life: started by the context, ended with the life.

A crash of one is the actor's crash. Here is also what tells a crash from a
cancellation, for all code of users that the kernel runs.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs
import trio

from terzetto.actor._current import current_cell
from terzetto.actor._errors import StrayCancelledError

if TYPE_CHECKING:
    from terzetto.actor._system import System


@trio.lowlevel.enable_ki_protection
async def triage(path: str, error: BaseException) -> BaseException:
    """Tell a cancellation of the whole tree, which passes on, from a crash, which is returned."""
    is_cancelled = isinstance(error, trio.Cancelled)
    group: object = error
    if isinstance(group, BaseExceptionGroup):
        parts = cast("BaseExceptionGroup[BaseException]", group)
        found, rest = parts.split(trio.Cancelled)
        if found is not None and rest is not None:
            return rest
        is_cancelled = found is not None
    if is_cancelled:
        # One that belongs to a scope around us is raised anew by this very line,
        # so no captured Cancelled travels; one that belongs to none is a crash.
        await trio.lowlevel.checkpoint_if_cancelled()
        stray = StrayCancelledError(
            f"{path!r} raised a trio.Cancelled that belongs to no scope around it: "
            "never keep a Cancelled to raise it later"
        )
        stray.__cause__ = error
        return stray
    return error


@attrs.define(eq=False, kw_only=True)
class Background:
    """The background tasks of one life that runs."""

    path: str
    system: "System"
    fail: Callable[[BaseException], None]
    """Crashes the actor."""

    _scopes: dict[trio.CancelScope, None] = attrs.field(factory=dict[trio.CancelScope, None])
    _ended: trio.Event | None = None

    def start_soon(
        self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...], name: str
    ) -> trio.CancelScope:
        """Start a task whose crash is the actor's crash; return the scope that ends it."""
        scope = self._add()
        self.system.spawn(self._run, f"{self.path}: {name}", fn, args, scope)
        return scope

    async def start(
        self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...], name: str
    ) -> Any:  # noqa: ANN401 - as trio's own Nursery.start
        """Start a task and wait until it says that it has started."""
        return await self.system.start(
            partial(self._run_once_started, fn, args, self._add()), f"{self.path}: {name}"
        )

    async def end(self) -> None:
        """Cancel all tasks, and wait for them."""
        if self._scopes:
            self._ended = trio.Event()
            for scope in list(self._scopes):
                scope.cancel()
            await self._ended.wait()

    def _add(self) -> trio.CancelScope:
        scope = trio.CancelScope()
        self._scopes[scope] = None
        return scope

    def _remove(self, scope: trio.CancelScope) -> None:
        self._scopes.pop(scope, None)
        if not self._scopes and self._ended is not None:
            self._ended.set()

    async def _run(
        self, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...], scope: trio.CancelScope
    ) -> None:
        current_cell.set(None)
        try:
            with scope:
                await fn(*args)
        except BaseException as error:  # noqa: BLE001 - the boundary of user code; see triage
            self.fail(await triage(self.path, error))
        finally:
            self._remove(scope)

    async def _run_once_started(
        self,
        fn: Callable[..., Awaitable[object]],
        args: tuple[Any, ...],
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[Any],
    ) -> None:
        current_cell.set(None)
        status = _Status(task_status)
        try:
            with scope:
                await fn(*args, task_status=status)
        except BaseException as error:
            if not status.called:
                raise  # to the one who waits in `start`
            self.fail(await triage(self.path, error))
        finally:
            self._remove(scope)


@attrs.define(eq=False)
class _Status:
    """A `trio.TaskStatus` that remembers whether it was called."""

    inner: trio.TaskStatus[Any]
    called: bool = False

    def started(self, value: object = None) -> None:
        self.inner.started(value)
        self.called = True
