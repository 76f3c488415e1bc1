"""A task before it is enqueued, and how its options become what the wire has. Pure.

Everything is checked here, before Redis is touched. Where a number has to be
whole seconds on the wire it is rounded so that the promise holds: a timeout and
a retention up, the time of a lock down, as asynq does.
"""

import math
import os
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, TypedDict, TypeVar, Unpack, cast

import attrs

from terzetto.codec import Codec, json_codec
from terzetto.errors import InvalidNameError, InvalidOptionError, InvalidPayloadError
from terzetto.tasks._broker_values import Enqueue
from terzetto.tasks._keys import QueueKeys
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._queues import DEFAULT_QUEUE, check_queue

T = TypeVar("T")

DEFAULT_MAX_RETRY: Final = 25
DEFAULT_TIMEOUT: Final = 1800
"""Seconds that an attempt may take if its task says nothing, as in asynq."""

_MAX_INT32: Final = 2**31 - 1
_MAX_SECONDS: Final = 253_402_300_799  # the last second of the year 9999
_MAX_NAME: Final = 512
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class TaskOptions(TypedDict, total=False):
    """How a task is enqueued.

    Times are float seconds; points in time aware datetimes or Unix seconds. What is
    None counts as not given.

    Attributes:
        queue: the queue; default ``"default"``.
        max_retry: how often it may be tried again after the first attempt; default 25.
        timeout: seconds that one attempt may take, rounded up to whole ones; default 1800,
            or no limit if there is a deadline.
        deadline: when an attempt ends at the latest, rounded up to whole seconds.
        unique: seconds, 1 at least and rounded down, for which no other task with the same
            type, payload and queue may be enqueued, unless it is done before.
        process_at: when it may start.
        process_in: in how many seconds it may start; not together with `process_at`.
        task_id: its id, which no other task of the queue may have; default: a random UUID.
        retention: seconds that it and its result are kept after its success, rounded up;
            default 0.
        group: the group in which it is aggregated.
        headers: texts that travel with it.
    """

    queue: str | None
    max_retry: int | None
    timeout: float | None
    deadline: datetime | float | None
    unique: float | None
    process_at: datetime | float | None
    process_in: float | None
    task_id: str | None
    retention: float | None
    group: str | None
    headers: Mapping[str, str] | None


_KNOWN: Final = frozenset(TaskOptions.__annotations__)


@attrs.define(init=False, repr=False)
class Task:
    """A type, a payload, and how it is to be enqueued.

    Attributes:
        type: what kind of task it is; a server finds its function by it.
        payload: bytes, or None: it has none.
        options: those given here; a client's `enqueue` may override them.
    """

    type: str
    payload: bytes | None
    options: TaskOptions

    def __init__(
        self,
        type: str,  # noqa: A002 - what asynq calls it
        payload: object = None,
        *,
        codec: Codec[Any] | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        """Make a task.

        Args:
            type: not blank.
            payload: bytes as they are; anything else is written by `codec`, or without
                one as JSON (extra ``json``).
            codec: makes bytes of the payload.
            options: see `TaskOptions`.

        Raises:
            InvalidNameError: the type is blank, too long or no UTF-8.
            InvalidOptionError: there is no such option.
            InvalidPayloadError: the payload cannot be written.
            MissingExtraError: it would be written as JSON, and msgspec is not installed.
        """
        check_known(options)
        self.type = check_text("the type of a task", type)
        self.payload = encode_payload(payload, codec)
        self.options = options

    def __repr__(self) -> str:
        size = "no payload" if self.payload is None else f"{len(self.payload)} bytes"
        return f"<Task {self.type!r}, {size}>"


def check_known(options: Mapping[str, object]) -> None:
    """Raise `InvalidOptionError` if one of `options` is none."""
    if unknown := options.keys() - _KNOWN:
        raise InvalidOptionError(f"a task has no option {', '.join(sorted(unknown))}")


def merge(task: Task, options: TaskOptions) -> Mapping[str, Any]:
    """Return the options of a task with those of its enqueueing over them; None is none.

    Raises:
        InvalidOptionError: there is no such option, or `task` is none.
    """
    if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidOptionError(f"{task!r:.200} is no Task: give Task('its:type', payload)")
    if not options and not task.options:
        return _NONE
    check_known(options)
    merged = {name: value for name, value in task.options.items() if value is not None}
    merged.update((name, value) for name, value in options.items() if value is not None)
    return merged


def check_text(what: str, text: object) -> str:
    """Return `text` if it is one that can stand on the wire as a name.

    Raises:
        InvalidNameError: it is no str, blank, longer than 512 characters, or no UTF-8.
    """
    if not isinstance(text, str):
        raise InvalidNameError(f"{what} is a str, not {type(text).__name__}")
    if not text.strip():
        raise InvalidNameError(f"{what} is blank: give it a visible character")
    if len(text) > _MAX_NAME:
        raise InvalidNameError(f"{what} has {len(text)} characters: shorten it to {_MAX_NAME}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{what} is {text!r}, which is no UTF-8") from error
    return text


_json: list[Codec[object]] = []


def encode_payload(payload: object, codec: Codec[Any] | None) -> bytes | None:
    """Return the bytes of a payload; see `Task`."""
    if codec is not None:
        return codec.encode(payload)
    if payload is None or type(payload) is bytes:
        return payload
    if isinstance(payload, bytearray | memoryview | bytes):
        return bytes(cast("bytes", payload))
    if not _json:
        _json.append(json_codec(object))
    return _json[0].encode(payload)


@attrs.frozen(kw_only=True)
class Settled:
    """Options that were checked, in the wire's terms."""

    queue: str = DEFAULT_QUEUE
    max_retry: int = DEFAULT_MAX_RETRY
    timeout: int = DEFAULT_TIMEOUT
    deadline: int = 0
    unique_for: int = 0
    process_at: float = 0.0
    process_in: float = 0.0
    task_id: str = ""
    retention: int = 0
    group: str = ""
    headers: Mapping[str, str] = _NONE

    def entry(self, task: Task, *, queue: str, headers: Mapping[str, str]) -> Enqueue:
        """Return what is to be enqueued into `queue`."""
        payload = task.payload
        unique_key = ""
        if self.unique_for:
            unique_key = QueueKeys(queue).unique(task.type, payload)
        message = TaskMessage(
            type=task.type,
            payload=payload or b"",
            id=self.task_id or new_id(),
            queue=queue,
            max_retry=self.max_retry,
            timeout=self.timeout,
            deadline=self.deadline,
            unique_key=unique_key,
            retention=self.retention,
            group=self.group,
            headers=headers,
        )
        return Enqueue(
            message=message,
            process_at=self.process_at,
            process_in=self.process_in,
            unique_for=self.unique_for,
        )


_DEFAULT: Final = Settled()


def settle(options: Mapping[str, Any], *, max_payload: int, task: Task) -> Settled:
    """Check the options of a task.

    Raises:
        InvalidNameError: of queue, id or group.
        InvalidOptionError: of the others.
        InvalidPayloadError: the payload is too long.
    """
    if task.payload is not None and len(task.payload) > max_payload:
        raise InvalidPayloadError(
            f"the payload of {task!r} is longer than {max_payload} bytes: keep large data"
            " elsewhere, and send where it is"
        )
    if not options:
        return _DEFAULT
    if "process_at" in options and "process_in" in options:
        raise InvalidOptionError("process_at and process_in exclude each other: give one")
    deadline = math.ceil(_moment("deadline", options.get("deadline", 0)))
    timeout = DEFAULT_TIMEOUT if not deadline else 0
    if "timeout" in options:
        timeout = math.ceil(_seconds("timeout", options["timeout"], least=0, excluded=0))
    unique_for = 0
    if "unique" in options:
        unique_for = math.floor(_seconds("unique", options["unique"], least=1))
    return Settled(
        queue=check_queue(options.get("queue", DEFAULT_QUEUE)),
        max_retry=_whole("max_retry", options.get("max_retry", DEFAULT_MAX_RETRY)),
        timeout=timeout,
        deadline=deadline,
        unique_for=unique_for,
        process_at=_moment("process_at", options.get("process_at", 0)),
        process_in=_seconds("process_in", options.get("process_in", 0), least=0),
        task_id=check_text("the id of a task", options["task_id"]) if "task_id" in options else "",
        retention=math.ceil(_seconds("retention", options.get("retention", 0), least=0)),
        group=check_text("the name of a group", options["group"]) if "group" in options else "",
        headers=_headers(options.get("headers", _NONE)),
    )


def _number(value: object) -> float:
    """Return a number as it is, or one that is in no range."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _seconds(name: str, value: object, *, least: float, excluded: float | None = None) -> float:
    number = _number(value)
    if not least <= number <= _MAX_SECONDS or number == excluded:
        more = "more than" if excluded is not None else "at least"
        raise InvalidOptionError(f"{name} is {value!r}: give seconds, {more} {least:g}")
    return number


def _moment(name: str, value: object) -> float:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidOptionError(f"{name} is {value!r}: give a datetime with a time zone")
        value = value.timestamp()
    number = _number(value)
    if not 0 <= number <= _MAX_SECONDS:
        raise InvalidOptionError(f"{name} is {value!r}: give a datetime, or Unix seconds")
    return number


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_INT32:
        raise InvalidOptionError(f"{name} is {value!r}: give a whole number from 0 to {_MAX_INT32}")
    return value


def _headers(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidOptionError(f"headers are {value!r}: give a mapping of str to str")
    headers = cast("Mapping[str, str]", value)
    for name, text in headers.items():
        for each in (name, text):
            if not isinstance(each, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
                raise InvalidOptionError(f"header {name!r}: {each!r} is no str")
            try:
                each.encode()
            except UnicodeEncodeError as error:
                raise InvalidOptionError(f"header {name!r}: {each!r} is no UTF-8") from error
    return headers


_VARIANT: Final = "89ab"


def new_id() -> str:
    """Return a random UUID (version 4); the library's own takes three times as long."""
    digits = os.urandom(16).hex()
    variant = _VARIANT[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
