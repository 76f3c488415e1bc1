"""Which function handles a task, and how it is called.

The patterns are those of asynq's multiplexer: a pattern that is the task's type
wins; else the longest that the type begins with, whatever character follows.
Middleware wraps what is found, the first added outermost, and also the answer
that there is nothing. A router may be used by any number of servers.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypeAlias, TypeVar

import attrs
import trio

from terzetto._shared._functions import is_async
from terzetto.codec import Codec, json_codec
from terzetto.errors import InvalidOptionError, InvalidPayloadError
from terzetto.tasks._context import TaskContext
from terzetto.tasks._processes import check_main_module
from terzetto.tasks._retry import SkipRetry, UnknownTaskTypeError

F = TypeVar("F", bound=Callable[..., object])

RunIn: TypeAlias = Literal["trio", "thread", "process"]
"""Where a function runs: as a trio task, or, if it computes, in a thread or process."""

Handle: TypeAlias = Callable[[TaskContext], Awaitable[bytes | None]]
"""What carries out an attempt; the bytes that it returns become the task's result."""

Middleware: TypeAlias = Callable[[Handle], Handle]
"""Wraps a handle: it is given the next one, and returns what is called in its place."""

RunSync: TypeAlias = Callable[..., Awaitable[Any]]
"""Runs a function with its arguments somewhere else, and can be cancelled."""

_CACHED: Final = 10_000  # types whose route is remembered; types may come from outside
_PLAIN: Final = (bytes, object, Any, inspect.Parameter.empty)


@attrs.frozen(kw_only=True)
class Route:
    """A function and how to call it.

    Attributes:
        pattern: what it is registered for.
        function: the user's function.
        run_in: where it runs.
        wants_context: whether it takes the context as its second argument.
        decode: makes the payload's bytes its first argument, if it does not take bytes.
        encode: makes what it returns bytes, if it is declared to return something else.
    """

    pattern: str
    function: Callable[..., Any]
    run_in: RunIn
    wants_context: bool
    decode: Callable[[bytes], Any] | None
    encode: Callable[[Any], bytes] | None

    def bind(self, run_sync: RunSync) -> Handle:
        """Return what calls the function; `run_sync` is for one that computes."""

        async def handle(context: TaskContext) -> bytes | None:
            payload: Any = context.message.payload
            if self.decode is not None:
                payload = self._read(payload)
            arguments = (payload, context) if self.wants_context else (payload,)
            if self.run_in == "trio":
                value = await self.function(*arguments)
            else:
                value = await run_sync(self.function, *arguments)
            if value is None or type(value) is bytes:
                return value
            return self.encode(value) if self.encode is not None else None

        return handle

    def _read(self, data: bytes) -> Any:  # noqa: ANN401 - whatever the function takes
        assert self.decode is not None  # noqa: S101 - only called then
        try:
            return self.decode(data)
        except InvalidPayloadError as error:
            # No further attempt can read it; an inspector can run it after a repair.
            error.__cause__ = SkipRetry("the payload cannot be read")
            raise


@attrs.define(eq=False)
class Router:
    """Finds the function for a task by its type.

    Functions are registered by `task`, as a decorator, or by `handle`::

        router = Router()


        @router.task("email:send")
        async def send(email: Email, ctx: TaskContext) -> None: ...
    """

    _routes: dict[str, Route] = attrs.field(factory=dict[str, Route], init=False)
    _longest_first: list[str] = attrs.field(factory=list[str], init=False)
    _middleware: list[Middleware] = attrs.field(factory=list[Middleware], init=False)

    def task(
        self,
        pattern: str,
        *,
        codec: Codec[Any] | None = None,
        run_in: RunIn = "trio",
    ) -> Callable[[F], F]:
        """Register the function below for a pattern; takes and raises what `handle` does."""

        def register(function: F) -> F:
            self.handle(pattern, function, codec=codec, run_in=run_in)
            return function

        return register

    def handle(
        self,
        pattern: str,
        function: Callable[..., object],
        *,
        codec: Codec[Any] | None = None,
        run_in: RunIn = "trio",
    ) -> None:
        """Register a function for a pattern: a type, or what several types begin with.

        The function is given the payload, and the context if it has a second
        argument. The payload is bytes, unless `codec` or the argument's annotation
        says otherwise: any other annotation is read from JSON (extra ``json``).
        Bytes that it returns become the task's result, and so does a value of the
        type that it is declared to return, as JSON; what else it returns is ignored.

        Args:
            pattern: what the type is or begins with.
            function: an async one, unless `run_in` says otherwise.
            codec: makes a value of the payload.
            run_in: ``"thread"`` or ``"process"`` for a function that is not async and
                computes. Cancelling abandons a thread, which runs to its end unheard,
                and kills a process. A process can be given the payload only, and the
                function has to be found in its module by its name; the program's main
                module is imported anew there, so ``if __name__ == "__main__":`` has to
                stand before what runs it.

        Raises:
            InvalidOptionError: the pattern is blank or taken, or the function not one that
                can be called so.
            MissingExtraError: an annotation needs msgspec, which is not installed.
        """
        if not isinstance(pattern, str) or not pattern.strip():  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidOptionError(f"{pattern!r} is no pattern: give it a visible character")
        if pattern in self._routes:
            raise InvalidOptionError(f"pattern {pattern!r} has a function already")
        self._routes[pattern] = _route(pattern, function, codec, run_in)
        self._longest_first = sorted(self._routes, key=len, reverse=True)

    def use(self, *middleware: Middleware) -> None:
        """Wrap every function, those registered later too; the first given is outermost.

        What the outermost returns is the result, bytes or None; with anything else the
        task fails with `InvalidPayloadError`.

        Raises:
            InvalidOptionError: one of them cannot be called; none is added.
        """
        for each in middleware:
            if not callable(each):  # pyright: ignore[reportUnnecessaryComparison] - callers may be untyped
                raise InvalidOptionError(f"{each!r} is no middleware: it cannot be called")
        self._middleware += middleware

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns, in the order of their registration."""
        return tuple(self._routes)

    def match(self, task_type: str) -> Route | None:
        """Return the route of a type, if there is one."""
        exact = self._routes.get(task_type)
        if exact is not None:
            return exact
        for pattern in self._longest_first:
            if task_type.startswith(pattern):
                return self._routes[pattern]
        return None

    @property
    def needs_processes(self) -> bool:
        """Whether a function is to run in a process."""
        return any(route.run_in == "process" for route in self._routes.values())

    def compile(self, run_sync: Callable[[Route], RunSync]) -> Callable[[str], Handle]:
        """Return what finds the handle of a type; later registrations are not seen by it."""
        routes, middleware = dict(self._routes), tuple(self._middleware)
        known: dict[str, Handle] = {}

        def wrap(handle: Handle) -> Handle:
            for each in reversed(middleware):
                handle = each(handle)
            return _checked(handle) if middleware else handle

        handles = {name: wrap(route.bind(run_sync(route))) for name, route in routes.items()}
        unknown = wrap(_refuse)
        longest_first = list(self._longest_first)

        def find(task_type: str) -> Handle:
            handle = known.get(task_type)
            if handle is None:
                handle = handles.get(task_type)
                if handle is None:
                    pattern = next((p for p in longest_first if task_type.startswith(p)), None)
                    handle = unknown if pattern is None else handles[pattern]
                if len(known) >= _CACHED:
                    known.clear()
                known[task_type] = handle
            return handle

        return find


def check_router(router: object) -> Router:
    """Return `router` if a server can serve with it.

    Raises:
        InvalidOptionError: it is no router, or has no function; or one of its functions is
            to run in a process, and this is such a process, importing the main module.
    """
    if not isinstance(router, Router):
        raise InvalidOptionError(f"router is {router!r:.200}: give a Router")
    if not router.patterns:
        raise InvalidOptionError("the router has no function: register one first")
    if router.needs_processes:
        check_main_module()
    return router


def _checked(handle: Handle) -> Handle:
    """Return `handle` for one that middleware wraps, which may return anything."""

    async def check(context: TaskContext) -> bytes | None:
        result = await handle(context)
        if result is None or type(result) is bytes:
            return result
        raise InvalidPayloadError(
            f"the middleware of {context.type!r} returned a {type(result).__name__}: "
            "a result is bytes or None"
        )

    return check


async def _refuse(context: TaskContext) -> bytes | None:
    await trio.lowlevel.checkpoint()
    raise UnknownTaskTypeError(
        f"no function is registered for tasks of type {context.type!r}: register one, "
        "or take the task elsewhere"
    )


def _route(
    pattern: str, function: Callable[..., object], codec: Codec[Any] | None, run_in: RunIn
) -> Route:
    what = f"{function!r:.200} cannot handle {pattern!r}"
    if run_in not in {"trio", "thread", "process"}:
        raise InvalidOptionError(f"{what}: run_in is {run_in!r}, not 'trio', 'thread' or 'process'")
    if not callable(function) or isinstance(function, type):  # pyright: ignore[reportUnnecessaryComparison] - callers may be untyped
        raise InvalidOptionError(f"{what}: it is not a function")
    if is_async(function) != (run_in == "trio"):
        hint = "make it `async def`, or say run_in='thread'" if run_in == "trio" else "it is async"
        raise InvalidOptionError(f"{what}: {hint}")
    parameters = _parameters(function, what)
    wants_context = len(parameters) > 1
    if wants_context and run_in == "process":
        raise InvalidOptionError(f"{what}: a process is given the payload only, not the context")
    hints = _hints(function, what) if codec is None or "return" in _raw_hints(function) else {}
    encode: Callable[[Any], bytes] | None = None
    returned = hints.get("return", type(None))
    if returned is not type(None) and returned not in (*_PLAIN, bytes | None):
        encode = json_codec(object).encode  # the work is done: it fails for no annotation
    decode: Callable[[bytes], Any] | None = None
    if codec is not None:
        decode = codec.decode
    else:
        taken = hints.get(parameters[0].name, bytes)
        if taken not in _PLAIN:
            decode = json_codec(taken).decode
    return Route(
        pattern=pattern,
        function=function,
        run_in=run_in,
        wants_context=wants_context,
        decode=decode,
        encode=encode,
    )


def _parameters(function: Callable[..., object], what: str) -> list[inspect.Parameter]:
    """Return the arguments that a call gives: the payload, and the context if there is a second."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise InvalidOptionError(f"{what}: its arguments cannot be seen ({error})") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        needed = parameter.default is inspect.Parameter.empty
        if parameter.kind in positional and (needed or not given) and len(given) < 2:  # noqa: PLR2004 - payload and context
            given.append(parameter)
        elif needed and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise InvalidOptionError(f"{what}: it wants {parameter.name!r} beside payload, context")
    if not given:
        raise InvalidOptionError(f"{what}: it takes no payload")
    return given


def _hints(function: Callable[..., object], what: str) -> dict[str, Any]:
    target = function if hasattr(function, "__annotations__") else type(function).__call__
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError) as error:
        raise InvalidOptionError(
            f"{what}: its annotations cannot be read ({error}): give a codec"
        ) from error


def _raw_hints(function: Callable[..., object]) -> dict[str, Any]:
    return getattr(function, "__annotations__", {})
