"""Pykka's side of the actor cases: a `ThreadingActor`, used as its documentation shows."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pykka

from tests.bench.harness import Figures, Measure, Setting, Stopwatch

TELLS = 20_000
ASKS = 4_000
ASKERS = 20
ACTORS = 200


class Counter(pykka.ThreadingActor):
    """Adds up what it is sent, and answers with the total."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def on_receive(self, message: object) -> int:
        """Add the number; reply with the total."""
        if isinstance(message, int):
            self.total += message
        return self.total


@contextmanager
def tell(_setting: Setting) -> Generator[Measure]:
    """Tell, and take the time until the last message has been handled."""
    counter = Counter.start()

    def measure() -> Figures:
        with Stopwatch() as watch:
            for _ in range(TELLS):
                counter.tell(1)
            counter.ask(0)
        return {"rate": TELLS / watch.seconds}

    yield measure
    counter.stop()


@contextmanager
def ask(_setting: Setting) -> Generator[Measure]:
    """Ask, one question after the other."""
    counter = Counter.start()

    def measure() -> Figures:
        with Stopwatch() as watch:
            for _ in range(ASKS):
                counter.ask(1)
        return {"rate": ASKS / watch.seconds}

    yield measure
    counter.stop()


@contextmanager
def ask_from_threads(_setting: Setting) -> Generator[Measure]:
    """20 threads ask one actor, each one question after the other."""
    counter = Counter.start()

    def run(count: int) -> None:
        for _ in range(count):
            counter.ask(1)

    def measure() -> Figures:
        with ThreadPoolExecutor(ASKERS) as threads, Stopwatch() as watch:
            list(threads.map(run, [ASKS // ASKERS] * ASKERS))
        return {"rate": ASKS / watch.seconds}

    yield measure
    counter.stop()


@contextmanager
def spawn(_setting: Setting) -> Generator[Measure]:
    """Start actors, each with its thread, and take the time until the last one has started."""

    def measure() -> Figures:
        with Stopwatch() as watch:
            started = [Counter.start() for _ in range(ACTORS)]
        for counter in started:
            counter.stop()
        return {"rate": ACTORS / watch.seconds}

    yield measure
