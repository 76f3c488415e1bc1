"""What all parts of `RedisBroker` stand on: the client, the clock, keys, repeated scripts."""

import math
import secrets
import time
from collections.abc import Sequence
from typing import Final

import trio

from terzetto._shared._logging import Logger, default_logger
from terzetto.redis import Arg, LinkLostError, Redis, Reply, Script
from terzetto.tasks._clock import Clock, ServerClock
from terzetto.tasks._keys import DAY, MAX_ARCHIVED, STATISTICS_DAYS, QueueKeys

CHUNK: Final = 200  # tasks of one script, so that others are not kept waiting
TOKENS: Final = "lease-"
"""How all tokens of ours start; the field is a number where asynq has set it."""

_PAUSE: Final = 0.05
"""Seconds until what was lost is sent again; then the link itself waits for its server, and
on a cluster for the one that has the slot by then, whatever became of the others."""

AGAIN: Final = "1"
"""What a script is told when it may have run before and its reply was lost."""


class RedisBase:
    """A client and a clock, and how scripts are run until they answer."""

    def __init__(
        self, redis: Redis, *, clock: Clock | None = None, logger: Logger | None = None
    ) -> None:
        self.redis = redis
        self._server_clock = ServerClock(redis) if clock is None else None
        self._clock: Clock = self._server_clock or clock  # type: ignore[assignment] # one of them is there
        self._logger = logger or default_logger("tasks")
        self._keys: dict[str, QueueKeys] = {}
        self._day = (0, "")

    def now(self) -> float:
        """Return the server's time in Unix seconds, as well as it is known."""
        return self._clock.now()

    async def sync_clock(self) -> None:
        """Ask the server for its time. Raises what the link raises."""
        if self._server_clock is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._server_clock.sync()

    async def _time(self) -> float:
        """Return the time, after a look at the server's clock if the last is long ago."""
        clock = self._server_clock
        if clock is not None and clock.is_stale:
            await clock.sync()
        return self._clock.now()

    def keys(self, queue: str) -> QueueKeys:
        """Return the keys of a queue."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = self._keys[queue] = QueueKeys(queue)
        return keys

    def day_of(self, now: float) -> tuple[str, int]:
        """Return the UTC day of `now`, and when its counters expire in Unix seconds."""
        number = int(now // DAY)
        if self._day[0] != number:
            text = time.strftime("%Y-%m-%d", time.gmtime(number * DAY))
            self._day = (number, text)
        return self._day[1], int(now) + STATISTICS_DAYS * DAY

    async def move_one_words(
        self, queue: str, task_id: bytes, move: str
    ) -> tuple[list[Arg], list[Arg]]:
        """Return keys and arguments of the script that moves one task."""
        now = await self._time()
        keys = self.keys(queue)
        names: list[Arg] = [keys.tasks.encode() + task_id]
        names += [keys.pending, keys.archived, keys.groups, keys.sets]
        return names, [
            task_id,
            move,
            keys.prefix,
            keys.tasks,
            int(now),
            nanoseconds(now),
            keys.wake_channel,
            int(now) - STATISTICS_DAYS * DAY,
            MAX_ARCHIVED,
        ]

    async def run(
        self,
        script: Script,
        keys: Sequence[Arg],
        args: Sequence[Arg],
        *,
        again: int | None = None,
    ) -> Reply:
        """Run a script until it answers.

        `again` is the place of the argument that says that it may have run before;
        without one, the script does no harm if it is run twice.
        """
        words = list(args)
        while True:
            try:
                return await self.redis.run_script(script, keys=keys, args=words)
            except LinkLostError as error:
                if error.may_have_run and again is not None:
                    words[again] = AGAIN
                await trio.sleep(_PAUSE)

    async def command(self, *args: Arg) -> Reply:
        """Run a command that does no harm if it is run twice, until it answers."""
        while True:
            try:
                return await self.redis.execute(*args)
            except LinkLostError:
                await trio.sleep(_PAUSE)

    async def commands(self, commands: Sequence[Sequence[Arg]]) -> list[Reply]:
        """Run commands that do no harm if they are run twice, until they answer.

        Raises the first error reply.
        """
        replies = await self.replies(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def replies(self, commands: Sequence[Sequence[Arg]]) -> list[Reply]:
        """Run commands as `commands` does; error replies are among those that are returned."""
        while True:
            try:
                return await self.redis.execute_many(commands)
            except LinkLostError:
                await trio.sleep(_PAUSE)


def new_token() -> str:
    """Return the start of tokens that nobody else has."""
    return f"{TOKENS}{secrets.token_hex(8)}-"


def nanoseconds(now: float) -> int:
    """Return Unix seconds as nanoseconds, right to the microsecond that a float has."""
    return int(now * 1_000_000) * 1000


def due(at: float) -> tuple[int, int | str]:
    """Return the score of a task that is due at `at`, and when exactly in ms, or ``""``.

    asynq wants whole seconds; the score is never before the task is due.
    """
    ms = math.ceil(at * 1000)
    score = -(-ms // 1000)
    return score, "" if score * 1000 == ms else ms


def own_lock(keys: QueueKeys, unique_key: str) -> str | None:
    """Return the lock that a message names, unless it can't be one of its queue's."""
    return unique_key if unique_key.startswith(keys.prefix) else None
