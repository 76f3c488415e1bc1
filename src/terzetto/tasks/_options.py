"""The options of a server, checked before anything is touched. Pure.

Times are in seconds. The defaults are asynq's where a peer could notice, and
shorter where only our own servers act (recovery, forwarding).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

import attrs

from terzetto._shared._functions import is_async
from terzetto.errors import InvalidOptionError
from terzetto.tasks._broker import LEASE_SECONDS
from terzetto.tasks._context import TaskContext
from terzetto.tasks._limits import ConcurrencyLimit, Limit, RateLimit
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._queues import DEFAULT_QUEUE, check_queues
from terzetto.tasks._retry import RetryPolicy
from terzetto.tasks._task import Task

ErrorHandler: TypeAlias = Callable[[TaskContext, BaseException], Awaitable[object]]
"""Called with each error of an attempt before its outcome is written."""

HealthCheck: TypeAlias = Callable[[BaseException | None], Awaitable[object]]
"""Called with None if Redis answers, else with the error."""

Aggregate: TypeAlias = Callable[[str, tuple[TaskMessage, ...]], Awaitable[Task]]
"""Makes one task of the tasks of a group, given its name and them, oldest first."""

_MAX_SECONDS: Final = 10**9
_MAX_CONCURRENCY: Final = 100_000
_SHORTEST_LEASE: Final = 3.0
_BEATS: Final = 3  # renewals in the life of a lease, so that two may fail


def _seconds(least: float) -> Callable[[object, "attrs.Attribute[float]", float], None]:
    def check(_: object, attribute: "attrs.Attribute[float]", value: float) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        if not number or not least <= value <= _MAX_SECONDS:
            raise InvalidOptionError(
                f"{attribute.name} is {value!r}: give seconds, from {least:g} to {_MAX_SECONDS}"
            )

    return check


def _count(most: int) -> Callable[[object, "attrs.Attribute[int]", int], None]:
    def check(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        if not whole or not 1 <= value <= most:
            raise InvalidOptionError(
                f"{attribute.name} is {value!r}: give a whole number from 1 to {most}"
            )

    return check


def _async(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if not is_async(value):
        raise InvalidOptionError(f"{attribute.name} is {value!r:.200}: give an async function")


def _async_or_none(owner: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if value is not None:
        _async(owner, attribute, value)


def _bool(_: object, attribute: "attrs.Attribute[bool]", value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidOptionError(f"{attribute.name} is {value!r}: give True or False")


def _grouping(_: object, __: "attrs.Attribute[Any]", value: "Grouping | None") -> None:
    if value is not None and not isinstance(value, Grouping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidOptionError(f"grouping is {value!r:.200}: give a Grouping, or None")


def _limits(value: object) -> tuple[Limit, ...]:
    """Return a copy of `value` if it holds nothing but limits; a single limit is not enough."""
    limits = tuple(cast("Iterable[object]", value)) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(limit, RateLimit | ConcurrencyLimit) for limit in limits):
        raise InvalidOptionError(
            f"limits is {value!r:.200}: give a list of RateLimit and ConcurrencyLimit"
        )
    return cast("tuple[Limit, ...]", limits)


@attrs.frozen(kw_only=True)
class Grouping:
    """When and by what the tasks of a group are made one.

    Attributes:
        aggregate: given the group and its tasks, oldest first, returns the one task, which
            goes into the queue that they are in.
        grace: seconds without a new task after which the group is complete.
        max_delay: seconds that a task waits at most; 0 for any time.
        max_size: tasks at which it is complete; 0 for any number.
    """

    aggregate: Aggregate = attrs.field(validator=_async)
    grace: float = attrs.field(default=60.0, validator=_seconds(1.0))
    max_delay: float = attrs.field(default=0.0, validator=_seconds(0.0))
    max_size: int = 0

    def __attrs_post_init__(self) -> None:
        """Refuse a size that cannot be."""
        if not isinstance(self.max_size, int) or self.max_size < 0:  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidOptionError(f"max_size is {self.max_size!r}: give 0 or more tasks")


@attrs.frozen(kw_only=True)
class ServerOptions:
    """The options of a server; `open_server` describes them."""

    queues: Mapping[str, int] = attrs.field(
        factory=lambda: {DEFAULT_QUEUE: 1}, converter=check_queues
    )
    strict: bool = attrs.field(default=False, validator=_bool)
    concurrency: int = attrs.field(default=10, validator=_count(_MAX_CONCURRENCY))
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    shutdown_timeout: float = attrs.field(default=8.0, validator=_seconds(0.0))
    poll_interval: float = attrs.field(default=1.0, validator=_seconds(0.001))
    forward_interval: float = attrs.field(default=1.0, validator=_seconds(0.01))
    recover_interval: float = attrs.field(default=1.0, validator=_seconds(0.01))
    janitor_interval: float = attrs.field(default=8.0, validator=_seconds(0.01))
    heartbeat_interval: float = attrs.field(default=5.0, validator=_seconds(0.01))
    health_interval: float = attrs.field(default=15.0, validator=_seconds(0.01))
    lease: float = attrs.field(default=LEASE_SECONDS, validator=_seconds(_SHORTEST_LEASE))
    error_handler: ErrorHandler | None = attrs.field(default=None, validator=_async_or_none)
    health_check: HealthCheck | None = attrs.field(default=None, validator=_async_or_none)
    grouping: Grouping | None = attrs.field(default=None, validator=_grouping)
    limits: tuple[Limit, ...] = attrs.field(default=(), converter=_limits)

    def __attrs_post_init__(self) -> None:
        """Refuse leases that would run out between two renewals."""
        if self.heartbeat_interval * _BEATS > self.lease:
            raise InvalidOptionError(
                f"heartbeat_interval is {self.heartbeat_interval}: leases of {self.lease} s want "
                f"{_BEATS} of them, so give at most {self.lease / _BEATS:g}"
            )
