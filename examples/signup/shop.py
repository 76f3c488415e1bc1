"""The shop: from sign-ups to mails, through a map, a stream and a pool.

Every sign-up becomes an event on the stream of users, which a reader counts and
two instances of a sink audit, and a job in the pool, which the worker processes
turn into a mail. A schedule keeps a long job for each country, which writes a
digest when it is notified. On the way a feature flag is flipped, one worker process
is killed and another is hired. `__main__.py` runs it and `report.py` shows it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import attrs
import trio

import terzetto
from examples.signup.fleet import Fleet, open_fleet
from examples.signup.mailbox import Mailbox
from examples.signup.records import SignUp, sign_up_codec
from examples.signup.settings import (
    ACK_GRACE_PERIOD,
    COUNTRIES,
    DIGESTS,
    FLAGS,
    MAIL_QUEUE_LIMIT,
    MAILS,
    POOL,
    USERS,
    USERS_KEPT,
    WORDING,
    WORKER_TTL,
)
from terzetto import pool, rmap, streaming
from terzetto.redis import Redis

PLAN_EVERY = 0.5
"""Seconds between two looks at the countries; an hour in real life, or a cron spec."""

CLERKS = 32
"""How many sign-ups are handled at a time."""


@attrs.define
class Tally:
    """What was seen on the way; whatever makes progress puts off the end of `in_time`."""

    expected: int
    patience: float
    in_time: trio.CancelScope
    progressed: Callable[[int], None]
    counted: Counter[str] = attrs.field(factory=Counter[str])
    audited: Counter[str] = attrs.field(factory=Counter[str])
    started_by: defaultdict[str, set[str]] = attrs.field(
        factory=lambda: defaultdict[str, set[str]](set)
    )
    sent: set[str] = attrs.field(factory=set[str])
    failures: dict[str, str] = attrs.field(factory=dict[str, str])
    changed: trio.Condition = attrs.field(factory=trio.Condition)

    async def note_progress(self) -> None:
        """Wake those who wait for a count, and begin the time of patience afresh."""
        self.in_time.deadline = trio.current_time() + self.patience
        self.progressed(len(self.sent))
        async with self.changed:
            self.changed.notify_all()

    async def wait_until(self, reached: Callable[[], bool]) -> None:
        """Wait until `reached()` is true."""
        async with self.changed:
            while not reached():
                await self.changed.wait()


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of it all."""

    tally: Tally
    events: int
    digests: int
    seconds_adding: float
    seconds: float

    @property
    def moved(self) -> int:
        """Jobs that were started by more than one worker."""
        return sum(len(workers) > 1 for workers in self.tally.started_by.values())


@attrs.frozen
class Maps:
    """The replicated maps that the shop shares with its workers."""

    flags: rmap.Map
    countries: rmap.Map
    digests: rmap.Map


async def _count(reader: streaming.Reader, countries: rmap.Map, tally: Tally) -> None:
    """Be the analytics: count the users of each country, where all processes see it."""
    async for event in reader:
        tally.counted[event.topic] += 1
        await countries.increment(event.topic)
        await tally.note_progress()


async def _audit(name: str, sink: streaming.Sink, tally: Tally) -> None:
    """Be one of the auditors: see a share of the users, and acknowledge each."""
    async for event in sink:
        tally.audited[name] += 1
        await sink.ack(event)
        await tally.note_progress()


async def _watch_mails(reader: streaming.Reader, tally: Tally) -> None:
    """Follow what the workers report: topic is the worker, payload the job's key."""
    async for event in reader:
        key = event.payload.decode()
        if event.name == "mail.started":
            tally.started_by[key].add(event.topic)
        else:
            tally.sent.add(key)
        await tally.note_progress()


async def _handle(todo: trio.MemoryReceiveChannel[SignUp], node: pool.Node, tally: Tally) -> None:
    """Be one of the clerks: dispatch a job for each sign-up, however often it takes."""
    async for sign_up in todo:
        key = f"email:{sign_up.id}"
        while key not in tally.started_by:
            try:
                await node.dispatch(key, sign_up_codec.encode(sign_up))
            except pool.JobExistsError:
                break  # an earlier try was taken after all
            except pool.DispatchUnknownError:
                continue  # the worker may be dead; asking again is safe
            except pool.JobStartError as error:
                tally.failures[key] = str(error)
                await tally.note_progress()
            break


async def _keep_digests(node: pool.Node, countries: rmap.Map) -> None:
    """Be the planner: keep one job for each country that has users."""

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        return pool.JobPlan(start={f"digest:{code}": b"" for code in countries}, stop_others=True)

    async with node.open_schedule(DIGESTS, PLAN_EVERY, plan):
        await trio.sleep_forever()


async def _write_digests(node: pool.Node, countries: rmap.Map, digests: rmap.Map) -> None:
    """Tell the jobs to write, again if some were on the move, until all is written."""
    while dict(digests) != dict(countries):
        for code in countries:
            await node.notify(f"digest:{code}", b"")
        with trio.move_on_after(1):
            await digests.wait_for(lambda written: dict(written) == dict(countries))


async def _make_trouble(fleet: Fleet, flags: rmap.Map, tally: Tally) -> None:
    """Flip the flag after a quarter; half-way, kill one worker and hire another."""
    await tally.wait_until(lambda: len(tally.sent) >= tally.expected / 4)
    await flags.set_and_wait(WORDING, "new")
    await tally.wait_until(lambda: len(tally.sent) >= tally.expected / 2)
    await fleet.kill("ann")
    await fleet.hire("eve")


async def _serve(
    sign_ups: Sequence[SignUp], fleet: Fleet, redis: Redis, maps: Maps, tally: Tally
) -> Outcome:
    """Take every sign-up through the shop; return when all is done, or patience is over."""
    users = streaming.Stream(USERS, redis, max_len=USERS_KEPT)
    mails = streaming.Stream(MAILS, redis)
    began = trio.current_time()
    seconds_adding = math.nan

    def everything_seen() -> bool:
        return (
            len(tally.sent) + len(tally.failures) >= tally.expected
            and tally.counted.total() >= len(sign_ups)
            and tally.audited.total() >= len(sign_ups)
        )

    async with (
        users.open_reader(start=streaming.OLDEST) as analytics,
        users.open_sink("audit", start=streaming.OLDEST) as first,
        users.open_sink("audit", start=streaming.OLDEST) as second,
        mails.open_reader(start=streaming.OLDEST) as mail_reader,
        pool.open_node(
            POOL,
            redis,
            worker_ttl=WORKER_TTL,
            ack_grace_period=ACK_GRACE_PERIOD,
            max_queued_jobs=MAIL_QUEUE_LIMIT,
        ) as node,
        trio.open_nursery() as nursery,
    ):
        with tally.in_time:
            nursery.start_soon(_count, analytics, maps.countries, tally)
            nursery.start_soon(_audit, "first", first, tally)
            nursery.start_soon(_audit, "second", second, tally)
            nursery.start_soon(_watch_mails, mail_reader, tally)
            nursery.start_soon(_make_trouble, fleet, maps.flags, tally)
            nursery.start_soon(_keep_digests, node, maps.countries)
            to_clerks, todo = trio.open_memory_channel[SignUp](CLERKS)
            for _ in range(CLERKS):
                nursery.start_soon(_handle, todo, node, tally)
            for sign_up in sign_ups:
                payload = sign_up_codec.encode(sign_up)
                await users.add("user.created", payload, topic=sign_up.country)
                await to_clerks.send(sign_up)
            to_clerks.close()
            seconds_adding = trio.current_time() - began
            await tally.wait_until(everything_seen)
            await _write_digests(node, maps.countries, maps.digests)
        nursery.cancel_scope.cancel()
        seconds = trio.current_time() - began
        await node.shutdown()
    events = await users.length()
    await users.destroy()
    await mails.destroy()
    return Outcome(
        tally=tally,
        events=events,
        digests=len(maps.digests),
        seconds_adding=seconds_adding,
        seconds=seconds,
    )


async def open_shop(
    url: str,
    sign_ups: Sequence[SignUp],
    mailbox: Mailbox,
    *,
    patience: float,
    progressed: Callable[[int], None],
) -> Outcome:
    """Run the whole flow on the Redis at `url`, and leave nothing there.

    Args:
        url: where Redis is.
        sign_ups: what to handle.
        mailbox: where the workers write.
        patience: seconds without any progress after which the shop gives up.
        progressed: called with the number of users who have their mail, as it grows.
    """
    tally = Tally(
        expected=len(sign_ups),
        patience=patience,
        in_time=trio.CancelScope(deadline=trio.current_time() + patience),
        progressed=progressed,
    )
    async with (
        terzetto.connect(url) as redis,
        rmap.join(FLAGS, redis) as flags,
        rmap.join(COUNTRIES, redis) as countries,
        rmap.join(DIGESTS, redis) as digests,
        open_fleet(url, mailbox.path) as fleet,
    ):
        maps = Maps(flags, countries, digests)
        for each in (countries, digests):
            await each.reset()  # what an interrupted run has left
        await flags.set_and_wait(WORDING, "old")
        for name in ("ann", "bob"):
            await fleet.hire(name)
        await tally.note_progress()  # patience begins once there is somebody to wait for
        outcome = await _serve(sign_ups, fleet, redis, maps, tally)
        for each in (flags, countries, digests):
            await each.destroy()
    return outcome
