"""Pools in made-up time, by the thousand: nodes die, are cut off, come and go; nothing is lost.

Each seed is one story, always the same one. ``TERZETTO_SIMULATION=123-123`` tells that
of a seed again, ``TERZETTO_SIMULATION=500`` the first 500; `tests/faults` tells thousands.
"""

import logging
import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Final, cast
from unittest.mock import patch

import attrs
import pytest
import trio

from terzetto import pool
from terzetto.errors import TerzettoError
from terzetto.pool import _actor, _worker
from terzetto.redis import Redis
from terzetto.testing import run_seeded
from tests.pool import sim_world
from tests.pool.sim_world import Client, Server

TTL: Final = 1.0
GRACE: Final = 1.0
RECOVERED: Final = 4 * TTL  # the bound for what a death interrupts
SETTLED: Final = 15 * TTL  # the bound for all else that one story can pile up
SEEDS: Final = os.environ.get("TERZETTO_SIMULATION", "60")


@attrs.define(eq=False)
class Seat:
    """A process: a client, a node, and the jobs that run there."""

    name: str
    client: Client
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    node: pool.Node | None = None
    running: Counter[str] = attrs.field(factory=Counter[str])
    is_dead: bool = False
    is_leaving: bool = False
    is_cut: bool = False
    healed_at: float = float("-inf")
    """When it was last cut off; its jobs may have moved until it hears of that."""


class CrashEar(logging.Handler):
    """Notes the crashes of actors: what befalls a node in a story crashes none of its parts."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("actor crashed"):
            self._heard.append(text)


@attrs.define(eq=False)
class World:
    """A story: what was promised, what runs, and what went wrong."""

    chance: Random
    nursery: trio.Nursery
    server: Server
    seats: list[Seat] = attrs.field(factory=list[Seat])
    accepted: set[str] = attrs.field(factory=set[str])
    stopped: set[str] = attrs.field(factory=set[str])
    undecided: set[str] = attrs.field(factory=set[str])
    wrong: list[str] = attrs.field(factory=list[str])
    told: list[str] = attrs.field(factory=list[str])
    number: int = 0

    # What happens

    def tell(self, what: str) -> None:
        self.told.append(f"{trio.current_time():8.3f} {what}")

    async def open(self) -> None:
        """Start a process with a node and a worker."""
        self.number += 1
        seat = Seat(f"n{self.number}", Client(self.server))
        self.tell(f"{seat.name} opens")
        self.seats.append(seat)
        await self.nursery.start(self._live, seat)

    async def _live(self, seat: Seat, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(seat.client.run)
            with seat.scope:
                async with pool.open_node(
                    "p",
                    cast("Redis", seat.client),
                    worker_ttl=TTL,
                    ack_grace_period=GRACE,
                    worker_shutdown_ttl=2 * TTL,
                ) as node:
                    await node.add_worker(partial(self._job, seat))
                    seat.node = node
                    task_status.started()
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()

    async def _job(self, seat: Seat, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        if seat.is_dead:
            await trio.sleep_forever()
        self.tell(f"{seat.name} starts {job.key}")
        for other in self.live():
            if other.running[job.key] and not self._is_excused(other, seat):
                self.wrong.append(f"{job.key} runs on {other.name} and {seat.name}")
        seat.running[job.key] += 1
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            seat.running[job.key] -= 1
            if not seat.is_dead:
                self.tell(f"{seat.name} ends {job.key}")

    def _is_excused(self, *seats: Seat) -> bool:
        """Tell whether one of them may not have heard yet that it was taken for dead."""
        now = trio.current_time()
        return any(seat.is_cut or now - seat.healed_at < TTL for seat in seats)

    def kill(self, seat: Seat) -> None:
        self.tell(f"{seat.name} dies")
        seat.is_dead = True
        self.seats.remove(seat)
        seat.client.die()
        seat.scope.cancel()

    def leave(self, seat: Seat) -> None:
        self.tell(f"{seat.name} leaves")
        seat.is_leaving = True
        seat.scope.cancel()

    async def cut(self, seat: Seat, seconds: float) -> None:
        self.tell(f"{seat.name} is cut off for {seconds:.2f}")
        seat.is_cut = True
        seat.client.cut()
        await trio.sleep(seconds)
        seat.is_cut = False
        seat.healed_at = trio.current_time()
        seat.client.heal()

    async def dispatch(self, seat: Seat, key: str, patience: float) -> None:
        self.undecided.add(key)
        assert seat.node is not None
        with trio.move_on_after(patience):
            try:
                await seat.node.dispatch(key, key.encode())
            except TerzettoError as error:
                self.tell(f"{key}: {type(error).__name__}")
                return
            if not seat.is_dead:
                self.undecided.discard(key)
                self.accepted.add(key)
                self.tell(f"{key} is accepted")

    async def stop(self, seat: Seat, key: str) -> None:
        assert seat.node is not None
        self.accepted.discard(key)
        self.undecided.add(key)
        try:
            await seat.node.stop_job(key)
        except TerzettoError:
            return
        if not seat.is_dead:
            self.tell(f"{key} is stopped")
            self.undecided.discard(key)
            self.stopped.add(key)

    # What is so

    def live(self) -> list[Seat]:
        return [seat for seat in self.seats if not seat.is_dead]

    def able(self) -> list[Seat]:
        return [
            seat
            for seat in self.seats
            if not (seat.is_cut or seat.is_leaving or seat.node is None or seat.node.is_closed)
        ]

    def runs(self) -> Counter[str]:
        return sum((+seat.running for seat in self.live()), Counter[str]())

    def complaints(self) -> list[str]:
        """Return what is not as promised, now."""
        runs = self.runs()
        return [
            *self.wrong,
            *(f"{key} runs {runs[key]} times" for key in self.accepted if runs[key] != 1),
            *(f"{key} was stopped and runs" for key in self.stopped if runs[key]),
            *(f"{key} runs {runs[key]} times" for key in self.undecided if runs[key] > 1),
        ]

    async def settle(self, within: float) -> None:
        """Wait until all is as promised, and stays so."""
        deadline = trio.current_time() + within
        while self.complaints():
            if trio.current_time() > deadline or self.wrong:
                raise AssertionError("\n".join([*self.complaints(), *self.told]))
            await trio.sleep(0.05)

    async def step(self, number: int) -> None:
        """Let something happen."""
        able = self.able()
        seat = self.chance.choice(able)
        what = self.chance.choices(
            ["dispatch", "hurry", "stop", "open", "kill", "leave", "cut"], [8, 2, 2, 2, 1, 1, 2]
        )[0]
        if what in {"dispatch", "hurry"}:
            for each in range(self.chance.randint(1, 4)):
                patience = 3 * GRACE if what == "dispatch" else self.chance.expovariate(50)
                key = f"{number}.{each}"
                self.nursery.start_soon(self.dispatch, self.chance.choice(able), key, patience)
        elif what == "stop" and self.accepted:
            key = self.chance.choice(sorted(self.accepted))
            self.nursery.start_soon(self.stop, seat, key)
        elif what == "open" and len(able) < 4:
            self.nursery.start_soon(self.open)
        elif what == "kill" and len(able) > 1:
            self.kill(seat)
        elif what == "leave" and len(able) > 1:
            self.leave(seat)
        elif what == "cut" and len(able) > 1:
            self.nursery.start_soon(self.cut, seat, self.chance.uniform(0, 3 * TTL))


async def tell_story(seed: int) -> None:
    """Tell one story, in which nothing may go wrong."""
    chance = Random(seed)  # noqa: S311 - to be repeated
    wrong: list[str] = []
    with hearing_crashes(wrong):
        async with trio.open_nursery() as nursery:
            await play(World(chance, nursery, Server(chance), wrong=wrong))


async def play(world: World) -> None:
    """Let things happen to a pool, then see that it settles; then kill a node in peace."""
    chance = world.chance
    for _ in range(chance.randint(2, 3)):
        await world.open()
    for number in range(chance.randint(5, 12)):
        await world.step(number)
        await trio.sleep(chance.expovariate(1 / (TTL / 4)))
        while not world.able():  # noqa: ASYNC110 - a state of several processes
            await trio.sleep(TTL / 10)
    await trio.sleep(3 * TTL)  # until nobody is cut off any more
    await world.settle(SETTLED)
    if len(world.able()) < 2:
        await world.open()
        await world.settle(SETTLED)
    world.tell("a death in peace")
    world.kill(chance.choice(world.able()))
    await world.settle(RECOVERED)
    world.nursery.cancel_scope.cancel()
    for seat in world.live():
        seat.client.die()


@contextmanager
def hearing_crashes(heard: list[str]) -> Generator[None]:
    """Note the crashes of actors in `heard`."""
    log, ear = logging.getLogger("terzetto.actor"), CrashEar(heard)
    log.addHandler(ear)
    try:
        yield
    finally:
        log.removeHandler(ear)


@contextmanager
def modelled() -> Generator[None]:
    """Give nodes the model's maps and streams."""
    with (
        patch.object(_actor, "map_child", sim_world.map_child),
        patch.object(_actor, "Stream", sim_world.Stream),
        patch.object(_worker, "Stream", sim_world.Stream),
    ):
        yield


def seeds() -> range:
    """Return the stories that are asked for."""
    first, dash, last = SEEDS.rpartition("-")
    return range(int(first), int(last) + 1) if dash else range(int(last))


def tell(wanted: range) -> None:
    """Tell stories; the error of one that goes wrong names it."""
    with modelled():
        for seed in wanted:
            try:
                run_seeded(tell_story, seed, seed=seed)
            except BaseException as error:
                error.add_note(f"TERZETTO_SIMULATION={seed}-{seed} tells this story again")
                raise


@pytest.mark.timeout(300)
def test_no_story_loses_a_job_or_runs_one_twice() -> None:
    tell(seeds())
