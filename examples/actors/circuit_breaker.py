"""A circuit breaker: after some failures in a row, calls are refused without being tried.

Run it with ``python -m examples.actors.circuit_breaker``. The breaker is an
actor that owns the state only; the protected call runs in the caller's task, so
a slow call holds up nobody. After a pause one call is let through to try.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import attrs
import trio

from terzetto.actor import Actor, Context, Ref, Reject, open_supervisor

T = TypeVar("T")


class CircuitOpenError(Exception):
    """The call was not tried: the last ones had failed."""


@attrs.define
class Breaker(Actor):
    """Opens after `failures` failed calls in a row, and tries again after `pause` seconds."""

    failures: int = 3
    pause: float = 0.5
    state: Literal["closed", "open", "half-open"] = "closed"
    failed: int = 0
    ctx: Context["Breaker"] | None = None

    async def started(self, ctx: Context["Breaker"]) -> None:
        """Keep the context for the timer."""
        self.ctx = ctx

    async def enter(self) -> None:
        """Allow a call, or refuse it."""
        if self.state == "open":
            raise Reject(CircuitOpenError("try again later"))
        if self.state == "half-open":
            self.state = "open"  # for all others, until this call has ended

    async def leave(self, *, succeeded: bool) -> None:
        """Hear how an allowed call ended."""
        self.failed = 0 if succeeded else self.failed + 1
        if succeeded:
            self.state = "closed"
        elif self.failed >= self.failures and self.ctx is not None:
            self.state = "open"
            self.ctx.after(self.pause, Breaker.half_open)

    async def half_open(self) -> None:
        """Let one call through."""
        self.state = "half-open"


async def protect(breaker: Ref[Breaker], call: Callable[[], Awaitable[T]]) -> T:
    """Run `call` if the breaker allows it; its own error comes out as it is."""
    await breaker.ask(Breaker.enter)
    succeeded = False
    try:
        result = await call()
        succeeded = True
    finally:
        breaker.tell_nowait(Breaker.leave, succeeded=succeeded)
    return result


async def main() -> None:
    """Call a service that is down for a while."""
    service_is_up = False
    tried = 0

    async def call_service() -> str:
        nonlocal tried
        tried += 1
        await trio.lowlevel.checkpoint()
        if not service_is_up:
            raise OSError("the service is down")
        return "hello"

    async with open_supervisor() as top:
        breaker = await top.spawn(Breaker, name="breaker")
        for _ in range(5):
            try:
                await protect(breaker, call_service)
            except (OSError, CircuitOpenError) as error:
                print(f"{type(error).__name__}: {error}")
        print(f"the service was tried {tried} times")
        service_is_up = True
        await trio.sleep(0.6)
        print(f"after the pause: {await protect(breaker, call_service)}")
        await breaker.shutdown()


if __name__ == "__main__":
    trio.run(main)
