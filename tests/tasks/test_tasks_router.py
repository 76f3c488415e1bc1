"""The router: patterns, middleware, and what functions are given and may return."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from terzetto._shared._logging import default_logger
from terzetto.codec import json_codec
from terzetto.errors import InvalidOptionError, InvalidPayloadError
from terzetto.tasks import RevokeTask, Router, SkipRetry, TaskContext, UnknownTaskTypeError
from terzetto.tasks._attempt import Attempt
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._retry import says
from terzetto.tasks._router import Handle, Route, RunSync

texts = st.text("ab:", min_size=1, max_size=6)


@attrs.define
class Email:
    to: str
    copies: int = 0


def context(task_type: str, payload: bytes = b"") -> TaskContext:
    message = TaskMessage(type=task_type, payload=payload, id="1", queue="default")
    writer: Any = Attempt
    return TaskContext(message, 0.0, writer, default_logger("tasks"))


def in_place(_: Route) -> RunSync:
    async def run(function: Callable[..., object], *args: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*args)

    return run


async def call(router: Router, task_type: str, payload: bytes = b"") -> bytes | None:
    return await router.compile(in_place)(task_type)(context(task_type, payload))


async def noop(payload: bytes) -> None: ...


@given(st.sets(texts, min_size=1, max_size=8), st.text("ab:", max_size=9))
@settings(max_examples=150)
def test_the_exact_type_wins_and_else_the_longest_prefix(patterns: set[str], kind: str) -> None:
    router = Router()
    for pattern in patterns:
        router.handle(pattern, noop)
    fitting = [pattern for pattern in patterns if kind.startswith(pattern)]
    expected = max(fitting, key=len, default=None)
    found = router.match(kind)
    assert (found.pattern if found else None) == expected
    assert set(router.patterns) == patterns


async def test_what_is_compiled_finds_what_match_finds() -> None:
    router = Router()
    seen: list[str] = []
    for pattern in ("email", "email:", "email:send", "sms"):

        async def note(payload: bytes, pattern: str = pattern) -> None:
            seen.append(pattern)

        router.handle(pattern, note)
    find = router.compile(in_place)
    for kind in ("email:send", "email:send:now", "email:x", "emails", "sms", "email:send"):
        await find(kind)(context(kind))
    assert seen == ["email:send", "email:send", "email:", "email", "sms", "email:send"]
    with pytest.raises(UnknownTaskTypeError, match="'fax'"):
        await find("fax")(context("fax"))


async def test_middleware_wraps_from_outside_in_and_what_is_not_found_too() -> None:
    router = Router()
    log: list[str] = []

    def named(name: str) -> Callable[[Handle], Handle]:
        def wrap(handle: Handle) -> Handle:
            async def around(ctx: TaskContext) -> bytes | None:
                log.append(f"{name} in")
                try:
                    return await handle(ctx)
                finally:
                    log.append(f"{name} out")

            return around

        return wrap

    router.use(named("one"), named("two"))
    router.use(named("three"))

    @router.task("x")
    async def work(payload: bytes) -> None:
        log.append("work")

    await call(router, "x")
    inside = ["one in", "two in", "three in", "work", "three out", "two out", "one out"]
    assert log == inside
    log.clear()
    with pytest.raises(UnknownTaskTypeError):
        await call(router, "unknown")
    assert log == [line for line in inside if line != "work"]


async def test_payloads_are_what_the_function_says() -> None:
    router = Router()
    seen: list[object] = []

    @router.task("bytes")
    async def take_bytes(payload: bytes) -> None:
        seen.append(payload)

    @router.task("bare")
    async def take_bare(payload: object, ctx: TaskContext) -> None:
        seen.append((payload, ctx.type))

    @router.task("typed")
    async def take_email(email: Email, ctx: TaskContext) -> None:
        seen.append((email, ctx.id))

    @router.task("codec", codec=json_codec(list[int]))
    async def take_list(numbers: list[int]) -> None:
        seen.append(numbers)

    @router.task("thread", run_in="thread")
    def compute(email: Email) -> None:
        seen.append(email)

    body = b'{"to":"a@b","copies":2}'
    await call(router, "bytes", b"\x00")
    await call(router, "bare", b"1")
    await call(router, "typed", body)
    await call(router, "codec", b"[1,2]")
    await call(router, "thread", body)
    email = Email("a@b", 2)
    assert seen == [b"\x00", (b"1", "bare"), (email, "1"), [1, 2], email]


async def test_a_payload_that_cannot_be_read_is_not_tried_again() -> None:
    router = Router()

    @router.task("typed")
    async def take_email(email: Email) -> None:
        raise AssertionError

    with pytest.raises(InvalidPayloadError) as raised:
        await call(router, "typed", b"{")
    assert says(raised.value, SkipRetry)
    assert not says(raised.value, RevokeTask)


async def test_results_are_bytes_or_what_the_function_is_declared_to_return() -> None:
    router = Router()

    async def give(payload: bytes, value: object) -> object:
        return value

    async def give_email(payload: bytes) -> Email:
        return Email("x", 1)

    async def give_bytes(payload: bytes) -> bytes:
        return b"raw"

    router.handle("number", partial(give, value=5))
    router.handle("none", partial(give, value=None))
    router.handle("email", give_email)
    router.handle("bytes", give_bytes)
    assert await call(router, "number") is None
    assert await call(router, "none") is None
    assert await call(router, "email") == json_codec(Email).encode(Email("x", 1))
    assert await call(router, "bytes") == b"raw"


async def test_work_that_is_done_does_not_fail_for_an_annotation_that_is_wrong() -> None:
    router = Router()

    async def count(_: bytes) -> int:
        return cast("int", "five")

    router.handle("count", count)
    assert await call(router, "count") == b'"five"'


def plain(payload: bytes) -> None: ...


def with_context(payload: bytes, ctx: TaskContext) -> None: ...


async def nothing() -> None: ...


async def three(payload: bytes, ctx: TaskContext, more: int) -> None: ...


async def keyword(payload: bytes, *, more: int) -> None: ...


async def unreadable(payload: bytes) -> None: ...


unreadable.__annotations__["payload"] = "Nowhere"

WRONG: list[tuple[str, Any, dict[str, str], str]] = [
    ("", noop, {}, "no pattern"),
    (" \t", noop, {}, "no pattern"),
    ("taken", noop, {}, "already"),
    ("x", plain, {}, "async def"),
    ("x", noop, {"run_in": "thread"}, "it is async"),
    ("x", plain, {"run_in": "elsewhere"}, "elsewhere"),
    ("x", with_context, {"run_in": "process"}, "payload only"),
    ("x", nothing, {}, "no payload"),
    ("x", three, {}, "'more'"),
    ("x", keyword, {}, "'more'"),
    ("x", unreadable, {}, "codec"),
    ("x", 5, {}, "not a function"),
    ("x", Email, {}, "not a function"),
]


@pytest.mark.parametrize(("pattern", "function", "options", "text"), WRONG)
def test_what_cannot_be_registered_says_why(
    pattern: str, function: Callable[..., object], options: dict[str, Any], text: str
) -> None:
    router = Router()
    router.handle("taken", noop)
    with pytest.raises(InvalidOptionError, match=text):
        router.handle(pattern, function, **options)
    assert router.patterns == ("taken",)


def test_methods_partials_and_callable_objects_are_functions() -> None:
    class Sender:
        async def send(self, email: Email, ctx: TaskContext) -> None: ...

        async def __call__(self, email: Email) -> None: ...

    def wrapped(function: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        return function

    router = Router()
    router.handle("a", Sender().send)
    router.handle("b", Sender())
    router.handle("c", wrapped(noop))
    routes = [router.match(name) for name in "abc"]
    assert [route.wants_context for route in routes if route] == [True, False, False]
    assert [route.decode is not None for route in routes if route] == [True, True, False]
    with pytest.raises(InvalidOptionError, match="middleware"):
        router.use(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - that is the case
