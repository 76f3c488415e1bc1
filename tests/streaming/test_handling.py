"""What comes out of a sink's handler loop, and what is told of a handler's error."""

import logging
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio
from redis.exceptions import ResponseError

from terzetto.streaming import OLDEST, Event, Stream

Eventually = Callable[[Callable[[], Awaitable[object] | bool]], Awaitable[None]]


def exit_with_four() -> None:
    raise SystemExit(4)


def interrupt() -> None:
    raise KeyboardInterrupt


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (exit_with_four, SystemExit),
        (interrupt, KeyboardInterrupt),
        (press_ctrl_c, KeyboardInterrupt),
    ],
)
async def test_what_ends_a_program_comes_out_of_the_handler_loop_as_it_is(
    stream: Stream, end: Callable[[], None], expected: type[BaseException], *, ordered: bool
) -> None:
    others_started, running = trio.Event(), set[str]()

    async def handler(event: Event) -> None:
        running.add(event.name)
        try:
            if event.name != "end":
                others_started.set()
                await trio.sleep_forever()
            await others_started.wait()
            end()
        finally:
            running.discard(event.name)

    names = ["other", "end", "waiting"]
    await stream.add_many([(name, b"", name) for name in names])
    async with stream.open_sink("k", start=OLDEST, ack_grace_period=1000) as sink:
        with trio.fail_after(20), pytest.raises(expected) as caught:
            await sink.handle(handler, concurrency=2, ordered=ordered)
        assert type(caught.value) is expected
        assert not isinstance(caught.value.__context__, BaseExceptionGroup)
        assert not running
        back: set[str] = set()
        with trio.fail_after(20):  # long before the grace period is over
            while len(back) < len(names):
                back.add((await anext(sink)).name)
        assert back == set(names)


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_handlers_error_is_told_with_text_and_traceback(
    stream: Stream, eventually: Eventually, caplog: pytest.LogCaptureFixture, *, ordered: bool
) -> None:
    async def handler(event: Event) -> None:
        # What the server would answer; redis-py's repr of it has no text.
        raise ResponseError(f"WRONGTYPE {event.name}")

    async def is_dead() -> bool:
        return await stream.dead_letters.count() == 1

    await stream.add("a", b"", topic="t")
    async with (
        stream.open_sink("k", start=OLDEST, max_deliveries=1) as sink,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(lambda: sink.handle(handler, ordered=ordered))
        await eventually(is_dead)
        nursery.cancel_scope.cancel()
    (letter,) = await stream.dead_letters.read()
    assert letter.why == "the handler raised ResponseError: WRONGTYPE a"
    (record,) = (each for each in caplog.records if each.message.startswith("handler failed"))
    assert record.levelno == logging.WARNING
    assert "ResponseError: WRONGTYPE a" in record.message
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ResponseError)
    assert record.exc_info[2] is not None


async def test_a_matchers_error_is_told_with_its_text(
    stream: Stream, eventually: Eventually
) -> None:
    def matcher(event: Event) -> bool:
        raise ResponseError(f"WRONGTYPE {event.name}")

    async def is_dead() -> bool:
        return await stream.dead_letters.count() == 1

    await stream.add("a", b"")
    async with (
        stream.open_sink("k", start=OLDEST, matcher=matcher) as sink,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(sink.read)
        await eventually(is_dead)
        nursery.cancel_scope.cancel()
    (letter,) = await stream.dead_letters.read()
    assert letter.why == "the matcher raised ResponseError: WRONGTYPE a"


@pytest.mark.parametrize("kind", ["matcher", "handler", "ordered handler", "reject"])
async def test_an_error_whose_text_cannot_be_sent_ends_no_loop(
    stream: Stream, eventually: Eventually, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    # The report of a test cannot carry the text either, and its log is in that.
    caplog.set_level(logging.CRITICAL, "terzetto.streaming")
    done: list[str] = []

    def check(event: Event) -> bool:
        if event.name == "bad":
            raise ValueError("bytes \udcff, and \ud800")
        if event.name == "raw":
            raise ValueError("bytes \udcff")
        return True

    async def handler(event: Event) -> None:
        check(event)
        done.append(event.name)

    async def are_dead() -> bool:
        return await stream.dead_letters.count() == 2

    await stream.add_many([("bad", b""), ("raw", b""), ("a", b"")])
    matcher = check if kind == "matcher" else None
    async with (
        stream.open_sink("k", start=OLDEST, max_deliveries=1, matcher=matcher) as sink,
        trio.open_nursery() as nursery,
    ):
        if kind == "reject":
            with trio.fail_after(20):
                await sink.reject(await anext(sink), "bytes \udcff, and \ud800")
                await sink.reject(await anext(sink), "bytes \udcff")
        nursery.start_soon(lambda: sink.handle(handler, ordered=kind == "ordered handler"))
        await eventually(are_dead)
        await eventually(lambda: done == ["a"])
        nursery.cancel_scope.cancel()
    whys = {letter.name: letter.why for letter in await stream.dead_letters.read()}
    assert whys["bad"].endswith("bytes ?, and ?")
    assert whys["raw"].endswith("bytes \udcff")
