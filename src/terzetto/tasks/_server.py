"""A task server: its face, which outlives restarts, and the actor of one life.

Theory of operation. The face is what users hold. Each life of the actor has one
`Core`, which its children share:

    presence    tells other processes that the server is there
    leases      renews the leases of what is running
    cancels     hears whom to cancel
    crew        runs the functions and writes outcomes
    forward, recover, clean up, aggregate, health: by the clock
    fetcher     takes tasks out of the queues

They stop in the reverse order: first nothing more is fetched, then the crew lets
what runs finish or hands it back, while leases are still renewed, and last the
server disappears. A crash of one restarts it alone; when its restarts are used up,
the life ends like that and another begins.

A life without a router waits for one: `Server.run` brings it.
"""

import os
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import attrs
import trio

from terzetto._shared._logging import Logger
from terzetto.actor import Actor, ActorStoppedError, Child, Context, Ref, Stop
from terzetto.tasks._aggregator import AggregatorActor
from terzetto.tasks._broker import Broker
from terzetto.tasks._core import Core, Counts, Identity, Status
from terzetto.tasks._crew import LAST_WORDS, CrewActor
from terzetto.tasks._errors import TaskError
from terzetto.tasks._fetcher import FetcherActor
from terzetto.tasks._host import host_name
from terzetto.tasks._limiter import Limiter
from terzetto.tasks._options import ServerOptions
from terzetto.tasks._processes import keep_processes
from terzetto.tasks._punctual import wake_on_time
from terzetto.tasks._router import Route, Router, RunSync, check_router
from terzetto.tasks._upkeep import LoopActor, PresenceActor, Upkeep

_MAX_PROCESSES: Final = os.cpu_count() or 1


class ServerStateError(TaskError):
    """The server runs already, or was stopped: open another."""


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """What a server has done since it was opened, and what it is doing.

    Attributes:
        succeeded: attempts that ended well, or revoked their task.
        retried: attempts that failed, with another to come.
        archived: attempts that failed for good.
        handed_back: attempts that were broken off by the server's end.
        postponed: tasks that a limit sent back.
        lost: attempts whose outcome was not written, because the lease was lost.
        recovered: tasks that were taken over from servers that died.
        running: functions that run at this moment.
        unwritten: attempts that are over, and whose outcome is being written.
    """

    succeeded: int
    retried: int
    archived: int
    handed_back: int
    postponed: int
    lost: int
    recovered: int
    running: int
    unwritten: int


class Server:
    """A server of task queues, made by `open_server` and `server_child`."""

    def __init__(self, broker: Broker, options: ServerOptions, log: Logger) -> None:
        self.broker = broker
        self.options = options
        self.identity = Identity(host=host_name(), pid=os.getpid(), server_id=_new_id())
        self.log = log.bind(server_id=self.identity.server_id)
        self.router: Router | None = None
        self.ref: Ref[ServerActor] | None = None
        self.counts = Counts()
        self.core: Core | None = None
        self._is_stopped = False
        self._ended = trio.Event()

    def __repr__(self) -> str:
        queues = " ".join(f"{name}:{weight}" for name, weight in self.options.queues.items())
        return f"<Server {self.id} {self.status} {queues} running={self.statistics().running}>"

    @property
    def id(self) -> str:
        """The server's id, the same over restarts."""
        return self.identity.server_id

    @property
    def status(self) -> Status:
        """Whether it takes tasks ("active"), did not begin ("new"), "stopped", or is "closed"."""
        if self._ended.is_set():
            return "closed"
        if self._is_stopped:
            return "stopped"
        return "new" if self.router is None else "active"

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good."""
        return self._ended.is_set()

    def statistics(self) -> ServerStatistics:
        """Return the figures of this moment."""
        core = self.core
        running = 0 if core is None else core.busy
        return ServerStatistics(
            **attrs.asdict(self.counts),
            running=running,
            unwritten=0 if core is None else max(0, len(core.running) - running),
        )

    async def run(self, router: Router) -> None:
        """Serve the queues with the router's functions, until the server is closed or shut down.

        Cancelling this lets nothing more be fetched; what runs goes on until the
        server's block is left.

        Raises:
            ServerStateError: it runs already, or was stopped or closed.
            InvalidOptionError: it is no router, or has no function; or the main module of a
                program with functions that run in processes starts this server also when
                such a process imports it: it needs ``if __name__ == "__main__":``.
        """
        if self.router is not None or self.status != "new" or self.ref is None:
            raise ServerStateError(f"server {self.id} is {self.status}: open another")
        self.router = check_router(router)
        try:
            await self.ref.ask(ServerActor.begin)
            await self._ended.wait()
        except ActorStoppedError:
            raise ServerStateError(f"server {self.id} was closed: open another") from None
        finally:
            self.stop()

    def stop(self) -> None:
        """Fetch no more tasks; what runs goes on. There is no way back."""
        self._is_stopped = True
        if self.core is not None:
            self.core.set_status("stopped")

    async def shutdown(self) -> None:
        """Fetch no more tasks, wait until what runs has finished, however long, then end.

        A `close` meanwhile cuts this short; cancelling it does not start the server again.
        """
        self.stop()
        if self.core is not None:
            await self.core.wait_quiet()
        await self.close()

    async def close(self) -> None:
        """End: what runs has `shutdown_timeout` to finish, then it goes back to its queue.

        Returns when that is written, or cannot be. Cancelling this does not stop it.
        """
        self.stop()
        if self.ref is None:
            await trio.lowlevel.checkpoint()
            return
        await self.ref.close()

    # For the actor ------------------------------------------------------------------

    def end_life(self, *, final: bool) -> None:
        """Note that a life is over."""
        if self.core is not None:
            self.core.set_status("closed")
        self.core = None
        if final:
            self._ended.set()

    @property
    def is_stopped(self) -> bool:
        """Whether it is to take no more tasks."""
        return self._is_stopped


@attrs.define(eq=False)
class ServerActor(Actor):
    """One life of a server; `face` is what outlives it."""

    face: Server
    _ctx: Context["ServerActor"] = attrs.field(init=False)

    async def started(self, ctx: Context["ServerActor"]) -> None:
        """Begin, if there is a router; one that comes later is for `begin`."""
        self._ctx = ctx
        ctx.start_soon(wake_on_time)
        if self.face.router is not None:
            await self._open(self.face.router)

    async def begin(self) -> None:
        """Take up the face's router."""
        if self.face.router is not None and self.face.core is None:
            await self._open(self.face.router)

    async def stopping(self, reason: Stop) -> None:
        """Tell the face; the children have done the rest."""
        self.face.end_life(final=reason in {Stop.NORMAL, Stop.CLOSED, Stop.SHUTDOWN})

    async def _open(self, router: Router) -> None:
        face, ctx, options = self.face, self._ctx, self.face.options
        run_sync = await self._runners(router)
        core = Core(
            broker=face.broker,
            options=options,
            identity=face.identity,
            log=face.log,
            find=router.compile(run_sync),
            counts=face.counts,
            started_at=face.broker.now(),
        )
        face.core = core
        limiter = Limiter(core=core)
        upkeep = Upkeep(core=core, limiter=limiter)
        await ctx.spawn(Child(partial(PresenceActor, core=core), name="presence", grace=3.0))
        await self._spawn_loop(core, "leases", upkeep.renew_leases)
        await self._spawn_loop(core, "cancels", upkeep.hear_cancels)
        await ctx.spawn(
            Child(
                partial(CrewActor, core=core, limiter=limiter),
                name="crew",
                grace=options.shutdown_timeout + 2 * LAST_WORDS,
            )
        )
        await self._spawn_loop(core, "forward", upkeep.forward, core.due.wait)
        await self._spawn_loop(core, "recover", upkeep.recover)
        await self._spawn_loop(core, "clean up", upkeep.clean_up)
        if options.grouping is not None:
            await ctx.spawn(
                Child(
                    partial(AggregatorActor, core=core, grouping=options.grouping),
                    name="aggregate",
                    grace=options.shutdown_timeout + LAST_WORDS,
                )
            )
        if options.health_check is not None:
            await self._spawn_loop(core, "health", upkeep.check_health)
        await ctx.spawn(Child(partial(FetcherActor, core=core), name="fetcher"))
        if face.is_stopped:
            core.set_status("stopped")

    async def _spawn_loop(
        self,
        core: Core,
        name: str,
        work: Callable[[], Awaitable[float]],
        wait: Callable[[float], Awaitable[None]] = trio.sleep,
    ) -> None:
        factory = partial(LoopActor, core=core, work=work, wait=wait)
        await self._ctx.spawn(Child(factory, name=name))

    async def _runners(self, router: Router) -> Callable[[Route], RunSync]:
        """Return what runs the functions that compute, each in its place."""
        threads = trio.CapacityLimiter(self.face.options.concurrency)
        run_in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=threads)
        run_in_process: Callable[..., Awaitable[Any]] = run_in_thread
        if router.needs_processes:
            processes = trio.CapacityLimiter(min(self.face.options.concurrency, _MAX_PROCESSES))
            run_here = await self._ctx.start(keep_processes)
            run_in_process = partial(run_here, limiter=processes)

        def pick(route: Route) -> RunSync:
            return run_in_process if route.run_in == "process" else run_in_thread

        return pick


def _new_id() -> str:
    return str(uuid.uuid4())
