"""A tree as a process: signals, exit codes, and the last line of the log."""

import logging
import os
import signal
from functools import partial

import pytest
import trio
import trio.testing

from terzetto.actor import Child, Context, Stop, Tree, serve
from terzetto.testing import CrashPlan, Journal, Probe, inject


class Signalling(Probe):
    """Sends its own process signals, when it starts and when it stops."""

    async def started(self, ctx: Context[Probe]) -> None:
        await super().started(ctx)
        os.kill(os.getpid(), signal.SIGTERM)


class Stubborn(Signalling):
    """Is sent a second signal while it is stopping."""

    async def stopping(self, reason: Stop) -> None:
        self.journal.write("stopping", reason)
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            self.journal.write("cancelled")


def last_line(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.records[-1].getMessage().split(" seconds=")[0]


async def test_a_signal_closes_the_tree_and_the_code_is_0(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "terzetto.actor")
    journal = Journal()
    tree = Tree(name="shop", children=(Child(partial(Signalling, journal)),))
    assert await serve(tree) == 0
    assert journal.entries == [("started",), ("stopping", Stop.CLOSED)]
    assert last_line(caplog) == "service ended service='shop' reason='closed'"


async def test_a_second_signal_cancels_and_gives_its_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "terzetto.actor")
    journal = Journal()
    tree = Tree(name="shop", children=(Child(partial(Stubborn, journal), grace=1000.0),))
    with trio.fail_after(30):
        assert await serve(tree) == 128 + signal.SIGINT
    assert journal.kinds() == ["started", "stopping", "cancelled"]
    assert last_line(caplog) == "service ended service='shop' reason='cut short'"


class Hanging(Probe):
    """Never comes up, and sends its own process a signal meanwhile."""

    async def started(self, ctx: Context[Probe]) -> None:
        self.journal.write("started")
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await trio.sleep_forever()
        finally:
            self.journal.write("cancelled")


async def test_a_signal_closes_a_tree_that_is_not_up_yet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "terzetto.actor")
    first, journal = Journal(), Journal()
    tree = Tree(
        name="shop",
        children=(Child(partial(Probe, first)), Child(partial(Hanging, journal), grace=0.0)),
    )
    with trio.fail_after(30):
        assert await serve(tree) == 0
    assert journal.kinds() == ["started", "cancelled"]
    assert first.entries == [("started",), ("stopping", Stop.CLOSED)]
    assert last_line(caplog) == "service ended service='shop' reason='closed'"


class Alarm(logging.Handler):
    """Sends its own process a second signal when the first one is written about."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("closing"):
            os.kill(os.getpid(), signal.SIGINT)


async def test_a_second_signal_cancels_a_tree_that_is_not_up_yet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal()
    tree = Tree(name="shop", children=(Child(partial(Hanging, journal), grace=1000.0),))
    log, alarm = logging.getLogger("terzetto.actor"), Alarm()
    caplog.set_level(logging.INFO, log.name)
    log.addHandler(alarm)
    try:
        with trio.fail_after(30):
            assert await serve(tree) == 128 + signal.SIGINT
    finally:
        log.removeHandler(alarm)
    assert journal.kinds() == ["started", "cancelled"]


async def test_a_tree_that_fails_gives_1_and_its_crash_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Doomed(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.after(0, Probe.crash, ValueError("doomed"))

    tree = Tree(name="shop", max_restarts=0, children=(Child(Doomed),))
    assert await serve(tree) == 1
    assert last_line(caplog) == "service failed service='shop'"
    assert caplog.records[-1].exc_info is not None
    assert str(caplog.records[-1].exc_info[1]) == "doomed"


class Broken(logging.Handler):
    """Cannot write that a signal has come."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("closing"):
            raise OSError("no room is left")


async def test_what_fails_beside_the_tree_closes_it_and_gives_1(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = Journal()
    tree = Tree(name="shop", children=(Child(partial(Signalling, journal)),))
    log, broken = logging.getLogger("terzetto.actor"), Broken()
    caplog.set_level(logging.INFO, log.name)
    log.addHandler(broken)
    try:
        assert await serve(tree) == 1
    finally:
        log.removeHandler(broken)
    assert journal.kinds() == ["started", "stopping"]
    assert last_line(caplog) == "service failed service='shop'"
    assert caplog.records[-1].exc_info is not None
    assert "no room is left" in str(getattr(caplog.records[-1].exc_info[1], "exceptions", ()))


async def test_a_tree_that_cannot_start_gives_1() -> None:
    plan = CrashPlan().crash("started")
    assert await serve(Tree(children=(Child(inject(Probe, plan)),))) == 1


async def test_a_tree_that_ends_by_itself_gives_0(caplog: pytest.LogCaptureFixture) -> None:
    class Brief(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.stop()

    caplog.set_level(logging.INFO, "terzetto.actor")
    tree = Tree(name="shop", auto_shutdown="any", children=(Child(Brief, significant=True),))
    assert await serve(tree) == 0
    assert last_line(caplog) == "service ended service='shop' reason='normal'"


async def test_cancelling_it_closes_the_tree(autojump_clock: trio.testing.MockClock) -> None:
    journal = Journal()
    with trio.move_on_after(1) as scope:
        await serve(Tree(children=(Child(partial(Probe, journal)),)))
    assert scope.cancelled_caught
    assert journal.entries[-1] == ("stopping", Stop.CLOSED)


async def test_a_system_exit_is_left_to_the_process() -> None:
    class Exiting(Probe):
        async def started(self, ctx: Context[Probe]) -> None:
            ctx.after(0, Probe.crash, SystemExit(7))

    with pytest.raises(SystemExit):
        await serve(Tree(children=(Child(Exiting),)))


async def test_the_signals_are_the_processs_own_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    await serve(Tree(children=(Child(Signalling),)))
    assert signal.getsignal(signal.SIGTERM) is before
