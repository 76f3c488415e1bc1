"""Thespian's side of the actor cases, on its default actor system.

The library has no types, so it comes in as `Any`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tests.bench.harness import Figures, Measure, Setting, Stopwatch

TELLS = 20_000
ASKS = 20_000
ACTORS = 500

thespian: Any = import_module("thespian.actors")


class Counter(thespian.Actor):  # type: ignore[misc]  # pyright: ignore[reportUntypedBaseClass] - as above
    """Adds up what it is sent; answers a question, which is ``0``, with the total."""

    total = 0

    def receiveMessage(self, message: object, sender: object) -> None:  # noqa: N802 - its name
        """Add the number; reply with the total if that is what is asked for."""
        if isinstance(message, int):
            self.total += message
            if message == 0:
                self.send(sender, self.total)


@contextmanager
def tell(_setting: Setting) -> Generator[Measure]:
    """Tell, and take the time until the last message has been handled."""
    system = thespian.ActorSystem()
    counter = system.createActor(Counter)

    def measure() -> Figures:
        with Stopwatch() as watch:
            for _ in range(TELLS):
                system.tell(counter, 1)
            system.ask(counter, 0)
        return {"rate": TELLS / watch.seconds}

    yield measure
    system.shutdown()


@contextmanager
def ask(_setting: Setting) -> Generator[Measure]:
    """Ask, one question after the other."""
    system = thespian.ActorSystem()
    counter = system.createActor(Counter)

    def measure() -> Figures:
        with Stopwatch() as watch:
            for _ in range(ASKS):
                system.ask(counter, 0)
        return {"rate": ASKS / watch.seconds}

    yield measure
    system.shutdown()


@contextmanager
def spawn(_setting: Setting) -> Generator[Measure]:
    """Create actors in one system."""
    system = thespian.ActorSystem()

    def measure() -> Figures:
        with Stopwatch() as watch:
            created = [system.createActor(Counter) for _ in range(ACTORS)]
        for counter in created:
            system.tell(counter, thespian.ActorExitRequest())
        return {"rate": ACTORS / watch.seconds}

    yield measure
    system.shutdown()
