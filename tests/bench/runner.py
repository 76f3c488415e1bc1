"""Runs a case: its server, a process for each contender, and their turns.

Called by `__main__.py`. A contender that fails drops out with its error and the
others go on; every process is gone when `run_case` returns, raises or is
cancelled.
"""

import json
import os
import subprocess
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from tests.bench.environments import find_python
from tests.bench.harness import Case, Contender, Line, MissingPeerError, Setting
from tests.bench.server import open_cluster, open_server

START_LIMIT = 600.0  # seconds until a contender is ready; one in Go has to be built first
TURN_LIMIT = 120.0  # seconds for one turn; a load that needs so long is not bounded
LONG_TURN_LIMIT = 1800.0  # the same where a case is said to take minutes
END_LIMIT = 10.0  # seconds for a contender to leave by itself


@attrs.define
class Runner:
    """One contender's process, spoken to in lines of JSON; `contender.py` is the other side."""

    line: Line
    process: trio.Process
    _received: bytes = b""

    async def open(self) -> None:
        """Wait until the contender is ready, or has said why it never will be."""
        message = await self._hear(START_LIMIT)
        self.line.versions = message.get("versions", {})
        self.line.missing = message.get("missing", "")
        self.line.error = message.get("error", "")

    async def take_turn(self, limit: float, *, counts: bool) -> None:
        """Let the contender do its load once, and keep the figures if the turn `counts`."""
        await self._tell(b"measure\n")
        message = await self._hear(limit)
        self.line.error = message.get("error", "")
        if counts and not self.line.error:
            self.line.turns.append(message["figures"])

    async def close(self) -> None:
        """End the contender's input, and wait a little for it to leave."""
        if self.process.stdin is not None:
            await self.process.stdin.aclose()
        with trio.move_on_after(END_LIMIT):
            await self.process.wait()

    async def _tell(self, text: bytes) -> None:
        try:
            if self.process.stdin is not None:
                await self.process.stdin.send_all(text)
        except trio.BrokenResourceError:
            pass  # its process has ended; that it is silent is seen when it should answer

    async def _hear(self, limit: float) -> dict[str, Any]:
        with trio.move_on_after(limit):
            while b"\n" not in self._received:
                data = await self.process.stdout.receive_some() if self.process.stdout else b""
                if not data:
                    return {"error": f"its process ended with {await self.process.wait()}"}
                self._received += data
            text, _, self._received = self._received.partition(b"\n")
            message: dict[str, Any] = json.loads(text)
            return message
        return {"error": f"silent for {limit:.0f} s"}


def split_cores(*, server: bool, same_core: bool = False) -> tuple[set[int], set[int]]:
    """Return the cores of the server and those of contenders; empty where nothing is pinned."""
    if not server or not hasattr(os, "sched_getaffinity"):
        return set(), set()
    first, *others = sorted(os.sched_getaffinity(0))
    if same_core:
        return {first}, {first}
    return ({first}, set(others)) if others else (set(), set())


@asynccontextmanager
async def open_runners(
    pythons: Collection[tuple[Contender, str]], setting: Setting, cores: Collection[int]
) -> AsyncGenerator[list[Runner]]:
    """Start a process for each contender, one after the other; all end with the block."""
    async with trio.open_nursery() as nursery:
        runners: list[Runner] = []
        for contender, python in pythons:
            order = {
                **attrs.asdict(contender),
                "setting": attrs.asdict(setting),
                "cores": sorted(cores),
            }
            command = [python, "-m", "tests.bench.contender", json.dumps(order)]
            start = partial(
                trio.run_process,
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
            )
            runner = Runner(Line(contender), await nursery.start(start))
            runners.append(runner)
            await runner.open()
        yield runners
        for runner in runners:
            await runner.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_setting(case: Case, cores: Collection[int]) -> AsyncGenerator[Setting]:
    """Yield what the case's contenders are told, with the server it asks for."""
    if not case.server:
        yield Setting(name=f"bench:{case.name}")
        return
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(open_server(cores))
        cluster_port = await stack.enter_async_context(open_cluster(cores)) if case.cluster else 0
        yield Setting(
            name=f"bench:{case.name}",
            port=port,
            url=f"redis://127.0.0.1:{port}",
            cluster_port=cluster_port,
            second_cores=sorted(cores) if case.apart else (),
        )


async def find_pythons(
    contenders: Collection[Contender],
) -> tuple[list[tuple[Contender, str]], list[Line]]:
    """Return the Python of each contender, and the lines of those that have none."""
    pythons: list[tuple[Contender, str]] = []
    missing: list[Line] = []
    for contender in contenders:
        try:
            pythons.append((contender, await find_python(contender.requires)))
        except MissingPeerError as error:
            missing.append(Line(contender, missing=str(error)))
    return pythons, missing


async def run_case(case: Case, rounds: int) -> list[Line]:
    """Run `rounds` rounds of `case` after one to warm up; return ours first, then the peers.

    Of a long case, run one round and none to warm up.
    """
    pythons, missing = await find_pythons([case.ours, *case.peers])
    server_cores, client_cores = split_cores(
        server=case.server and case.pinned, same_core=case.same_core
    )
    try:
        async with (
            open_setting(case, server_cores) as setting,
            open_runners(pythons, setting, client_cores) as runners,
        ):
            limit = LONG_TURN_LIMIT if case.long else TURN_LIMIT
            for turn in [1] if case.long else range(rounds * case.turns + 1):
                first = turn % len(runners)
                for runner in [*runners[first:], *runners[:first]]:
                    if runner.line.is_running:
                        await runner.take_turn(limit, counts=turn > 0)
            return [*(runner.line for runner in runners), *missing]
    except* MissingPeerError as group:
        why = str(group.exceptions[0])
    return [*(Line(contender, missing=why) for contender, _ in pythons), *missing]
