"""Messages on the wire: golden bytes, there and back, and what is refused."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from terzetto.tasks import (
    EnqueueEvent,
    MessageError,
    SchedulerEntry,
    ServerInfo,
    TaskMessage,
    WorkerInfo,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, 4_000_000_000_000_000).map(lambda us: us / 1_000_000)
HEADERS = st.dictionaries(TEXTS, TEXTS, max_size=4)

TASKS = st.builds(
    TaskMessage,
    type=TEXTS,
    payload=st.binary(max_size=50),
    id=TEXTS,
    queue=TEXTS,
    max_retry=INT32,
    retried=INT32,
    error=TEXTS,
    timeout=INT64,
    deadline=INT64,
    unique_key=TEXTS,
    last_failed_at=INT64,
    retention=INT64,
    completed_at=INT64,
    group=TEXTS,
    headers=HEADERS,
)
SERVERS = st.builds(
    ServerInfo,
    host=TEXTS,
    pid=INT32,
    server_id=TEXTS,
    concurrency=INT32,
    queues=st.dictionaries(TEXTS, INT32, max_size=4),
    strict_priority=st.booleans(),
    status=TEXTS,
    started_at=TIMES,
    active_workers=INT32,
)
WORKERS = st.builds(
    WorkerInfo,
    host=TEXTS,
    pid=INT32,
    server_id=TEXTS,
    task_id=TEXTS,
    task_type=TEXTS,
    payload=st.binary(max_size=50),
    queue=TEXTS,
    started_at=TIMES,
    deadline=TIMES,
)
ENTRIES = st.builds(
    SchedulerEntry,
    id=TEXTS,
    spec=TEXTS,
    task_type=TEXTS,
    payload=st.binary(max_size=50),
    options=st.lists(TEXTS.map(lambda text: f"Queue({text})"), max_size=3).map(tuple),
    next_at=st.none() | TIMES,
    previous_at=st.none() | TIMES,
)
EVENTS = st.builds(EnqueueEvent, task_id=TEXTS, enqueued_at=TIMES)

Any5 = TaskMessage | ServerInfo | WorkerInfo | SchedulerEntry | EnqueueEvent


@settings(max_examples=100)
@example(EnqueueEvent(task_id="", enqueued_at=1.613104))  # not 1 + 0.613104
@given(st.one_of(TASKS, SERVERS, WORKERS, ENTRIES, EVENTS))
def test_what_is_written_is_read(message: Any5) -> None:
    assert type(message).decode(message.encode()) == message


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_bytes_are_a_message_or_refused(data: bytes) -> None:
    for kind in (TaskMessage, ServerInfo, WorkerInfo, SchedulerEntry, EnqueueEvent):
        with suppress(MessageError):  # and nothing else
            assert isinstance(kind.decode(data), kind)


def test_the_bytes_of_a_task_are_those_of_go() -> None:
    message = TaskMessage(
        type="email", payload=b"{}", id="id1", queue="default", max_retry=25, timeout=1800
    )

    golden = bytes.fromhex("0A05656D61696C12027B7D1A03696431220764656661756C74281940880E")
    assert message.encode() == golden
    assert TaskMessage.decode(golden) == message


def test_fields_in_any_order_and_unknown_ones_are_read() -> None:
    data = bytes.fromhex("220171 1A0131 0A0165 9A0603787978 72026767".replace(" ", ""))

    message = TaskMessage.decode(data)

    assert (message.type, message.id, message.queue, message.group) == ("e", "1", "q", "gg")


def test_never_is_the_first_year_of_go() -> None:
    data = SchedulerEntry(id="e", spec="@daily", task_type="t").encode()

    assert data.count(bytes.fromhex("088092B8C398FEFFFFFF01")) == 2
    assert SchedulerEntry.decode(data).next_at is None


def task(**fields: object) -> TaskMessage:
    known = {"type": "t", "id": "i", "queue": "q", **fields}
    return TaskMessage(**known)  # type: ignore[arg-type] # wrong types are the test


@pytest.mark.parametrize(
    "make",
    [
        lambda: task(type="\udcff"),
        lambda: task(headers={"a": "\ud800"}),
        lambda: task(max_retry=2**31),
        lambda: task(timeout=2**63),
        lambda: task(payload="text"),
        lambda: SchedulerEntry(id="e", spec="s", task_type="t", options=("Queue",)),
        lambda: ServerInfo(
            host="h", pid=2**40, server_id="s", concurrency=1, queues={}, started_at=0
        ),
        lambda: EnqueueEvent(task_id="\udc80", enqueued_at=0),
    ],
)
def test_what_the_wire_cannot_hold_is_refused(make: Callable[[], Any5]) -> None:
    message = make()

    with pytest.raises(MessageError):
        message.encode()


def test_an_error_of_any_text_can_be_written() -> None:
    failed = task().with_failure("bad \udcff and \ud800, ok ü", 7, counts=True)

    assert TaskMessage.decode(failed.encode()).error == "bad ? and ?, ok ü"
    assert failed.retried == 1
    assert failed.last_failed_at == 7
