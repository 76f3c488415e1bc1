"""What a scheduler enqueues again and again, and when. Pure.

A schedule is known by what it is: spec, zone, type, payload and options. So two
schedulers that are told the same thing mean the same schedule, and agree on its
ticks, of which each is enqueued once. For that, ``@every`` goes by a grid that
begins at the Unix epoch and not, as asynq has it, with the start of a scheduler.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Unpack, cast

import attrs

from terzetto._shared._cron import Every, Schedule, parse_schedule
from terzetto._shared._durations import format_duration
from terzetto.errors import InvalidOptionError
from terzetto.tasks._broker_values import Enqueue, Tick
from terzetto.tasks._client import DEFAULT_MAX_PAYLOAD
from terzetto.tasks._task import Settled, Task, TaskOptions, check_known, merge, settle

_NAMESPACE: Final = uuid.UUID("6f0b7a52-2f43-5d0c-8d1b-6a3b8a1f4c77")
_SECOND: Final = 1_000_000_000
_GO_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}  # fmt: skip - a table is read by its rows


@attrs.frozen(init=False)
class Periodic:
    """A task that is due again and again.

    Attributes:
        spec: when: five cron fields, ``@hourly`` and its kin, or ``@every 1h30m``; a zone
            may stand in front as ``TZ=Europe/Paris``.
        task: what is enqueued each time.
        options: how; over the task's own.
    """

    spec: str
    task: Task
    options: TaskOptions

    def __init__(self, spec: str, task: Task, **options: Unpack[TaskOptions]) -> None:
        """Make one; it is checked when a scheduler takes it.

        Raises:
            InvalidOptionError: there is no such option.
        """
        check_known(options)
        self.__attrs_init__(spec, task, options)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - attrs makes it


@attrs.frozen(kw_only=True, eq=False)
class Plan:
    """A `Periodic` that was checked.

    Attributes:
        id: the same in every scheduler that was told the same.
        periodic: what was checked.
        schedule: when it is due.
        settled: its options in the wire's terms.
        option_texts: its options in asynq's text form.
    """

    id: str
    periodic: Periodic
    schedule: Schedule
    settled: Settled
    option_texts: tuple[str, ...]

    @property
    def spec(self) -> str:
        """When it is due, as given."""
        return self.periodic.spec

    @property
    def task(self) -> Task:
        """What is enqueued."""
        return self.periodic.task

    def next_after(self, moment: float) -> float | None:
        """Return the first tick after `moment` (Unix seconds); None if there is none."""
        if isinstance(self.schedule, Every):
            interval = self.schedule.interval.total_seconds()
            return (moment // interval + 1) * interval
        due = self.schedule.next_after(datetime.fromtimestamp(moment, UTC))
        return None if due is None else due.timestamp()

    def entry(self, at: float) -> Enqueue:
        """Return what to enqueue for the tick at `at`."""
        settled = self.settled
        made = settled.entry(self.task, queue=settled.queue, headers=settled.headers)
        return attrs.evolve(made, tick=Tick(schedule=self.id, at=at))


def plan(periodic: Periodic, zone: tzinfo) -> Plan:
    """Check a `Periodic` and return what a scheduler needs of it.

    Args:
        periodic: what to enqueue, and when.
        zone: whose clock the spec goes by, if it names no zone.

    Raises:
        InvalidCronError: the spec cannot be read.
        InvalidOptionError, InvalidNameError, InvalidPayloadError: as a client's `enqueue`; or
            the options say at which one moment to process it.
        MessageError: the task cannot be written.
    """
    task = periodic.task
    if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidOptionError(f"{task!r} is no Task")
    schedule = parse_schedule(periodic.spec, zone=zone)
    options = merge(task, periodic.options)
    if "process_at" in options:
        raise InvalidOptionError("process_at is one moment, but the task comes again and again")
    settled = settle(options, max_payload=DEFAULT_MAX_PAYLOAD, task=task)
    made = Plan(
        id=_identity(periodic.spec, schedule, task, options),
        periodic=periodic,
        schedule=schedule,
        settled=settled,
        option_texts=option_texts(options),
    )
    made.entry(0.0).message.encode()  # what cannot be written is refused here and not at night
    return made


def _identity(spec: str, schedule: Schedule, task: Task, options: Mapping[str, object]) -> str:
    payload = None if task.payload is None else hashlib.sha256(task.payload).hexdigest()
    parts = [
        spec,
        "" if isinstance(schedule, Every) else str(schedule.zone),
        task.type,
        payload,
        *sorted(option_texts(options)),
    ]
    return str(uuid.uuid5(_NAMESPACE, json.dumps(parts)))


def option_texts(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return options in the form in which asynq's inspector reads them."""
    texts: list[str] = []
    for name, write in _TEXTS.items():
        if name in options:
            texts.append(write(options[name]))
    headers = cast("Mapping[str, str]", options.get("headers", {}))
    texts += [
        f"Header({json.dumps([key, text], separators=(',', ':'), ensure_ascii=False)})"
        for key, text in headers.items()
    ]
    return tuple(texts)


def quote(text: str) -> str:
    """Return a text as Go quotes it."""
    return f'"{"".join(_escape(character) for character in text)}"'


def _escape(character: str) -> str:
    escape = _GO_ESCAPES.get(character)
    if escape is not None:
        return escape
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:  # noqa: PLR2004 - ASCII
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004 - 16 bits


def _duration(seconds: float) -> str:
    return format_duration(round(seconds * _SECOND))


def _date(moment: datetime | float) -> str:
    when = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    when = when.astimezone(UTC)
    return f"{when:%a %b} {when.day:2d} {when:%H:%M:%S} UTC {when.year:04d}"


def _quoted(name: str) -> Callable[[Any], str]:
    return lambda value: f"{name}({quote(value)})"


def _timed(name: str) -> Callable[[Any], str]:
    return lambda value: f"{name}({_duration(value)})"


def _dated(name: str) -> Callable[[Any], str]:
    return lambda value: f"{name}({_date(value)})"


def _plain(name: str) -> Callable[[Any], str]:
    return lambda value: f"{name}({value})"


_TEXTS: Final[dict[str, Callable[[Any], str]]] = {
    "queue": _quoted("Queue"),
    "max_retry": _plain("MaxRetry"),
    "timeout": _timed("Timeout"),
    "deadline": _dated("Deadline"),
    "unique": _timed("Unique"),
    "process_in": _timed("ProcessIn"),
    "task_id": _quoted("TaskID"),
    "retention": _timed("Retention"),
    "group": _quoted("Group"),
}
