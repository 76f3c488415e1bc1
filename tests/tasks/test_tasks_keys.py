"""The names of keys, as asynq has them, and their slots."""

from binascii import crc_hqx

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.tasks import _keys as keys
from terzetto.tasks import partitioned
from terzetto.tasks._keys import QueueKeys
from terzetto.tasks._partitions import check_partitions, partition_names, partition_of


def test_the_keys_are_those_of_go() -> None:
    queue = QueueKeys("default")

    assert queue.task("id1") == "asynq:{default}:t:id1"
    assert queue.pending == "asynq:{default}:pending"
    assert queue.active == "asynq:{default}:active"
    assert queue.lease == "asynq:{default}:lease"
    assert queue.scheduled == "asynq:{default}:scheduled"
    assert queue.retry == "asynq:{default}:retry"
    assert queue.archived == "asynq:{default}:archived"
    assert queue.completed == "asynq:{default}:completed"
    assert queue.groups == "asynq:{default}:groups"
    assert queue.group("g") == "asynq:{default}:g:g"
    assert queue.aggregation_set("g", "s") == "asynq:{default}:g:g:s"
    assert queue.sets == "asynq:{default}:aggregation_sets"
    assert queue.paused == "asynq:{default}:paused"
    assert queue.processed_on("2026-01-31") == "asynq:{default}:processed:2026-01-31"
    assert queue.failed_on("2026-01-31") == "asynq:{default}:failed:2026-01-31"
    assert (queue.processed, queue.failed) == (
        "asynq:{default}:processed",
        "asynq:{default}:failed",
    )
    assert keys.server_key("h", 1, "s") == "asynq:servers:{h:1:s}"
    assert keys.workers_key("h", 1, "s") == "asynq:workers:{h:1:s}"
    assert keys.scheduler_key("h:1:s") == "asynq:schedulers:{h:1:s}"
    assert keys.history_key("e") == "asynq:scheduler_history:e"
    assert keys.semaphore_key("s") == "asynq:sema:s"


@pytest.mark.parametrize(
    ("payload", "end"),
    [
        (b"{}", "99914b932bd37a50b983c5e7c90ae93b"),
        (b"", "d41d8cd98f00b204e9800998ecf8427e"),
        (None, ""),
    ],
)
def test_the_locks_of_unique_tasks_are_those_of_go(payload: bytes | None, end: str) -> None:
    lock = QueueKeys("default").unique("email", payload)

    assert lock == f"asynq:{{default}}:unique:email:{end}"


def slot(key: str) -> int:
    data = key.encode()
    start = data.index(b"{") + 1
    return crc_hqx(data[start : data.index(b"}", start)], 0) % 16384


@settings(max_examples=50)
@given(st.text("abc{:é-", min_size=1, max_size=8), st.text("abc{}:", min_size=1, max_size=8))
def test_all_keys_of_a_queue_share_a_slot(name: str, other: str) -> None:
    queue = QueueKeys(name)

    found = {
        slot(key)
        for key in (
            queue.pending,
            queue.task(other),
            queue.group(other),
            queue.aggregation_set(other, "s"),
            queue.unique(other, b"x"),
            queue.outcome_channel(other),
            queue.ticks,
        )
    }

    assert len(found) == 1


def test_the_slot_of_default_is_that_of_go() -> None:
    assert slot(QueueKeys("default").pending) == 5718


@settings(max_examples=30, deadline=None)
@given(st.text("abcé", min_size=1, max_size=8), st.integers(2, 24))
def test_partitions_are_spread_evenly_and_stay_when_some_are_added(name: str, count: int) -> None:
    names = partition_names(name, count)

    assert names[0] == name
    assert names == partition_names(name, count + 7)[:count]
    slots = sorted(slot(QueueKeys(each).pending) for each in names)
    gaps = [b - a for a, b in zip(slots, [*slots[1:], slots[0] + 16384], strict=True)]
    assert max(gaps) <= 16384 / count * 2.7 + 512


def test_tasks_are_spread_over_partitions() -> None:
    names = partition_names("q", 4)

    chosen = [partition_of(names, b"%d" % number) for number in range(400)]

    assert all(chosen.count(name) > 60 for name in names)


def test_a_server_serves_all_partitions() -> None:
    assert partitioned("q", 3, priority=2) == dict.fromkeys(partition_names("q", 3), 2)


@pytest.mark.parametrize("count", [0, -1, 1025, 2.0, True, "3"])
def test_a_wrong_count_of_partitions_is_refused(count: object) -> None:
    with pytest.raises(InvalidOptionError):
        check_partitions({"q": count})  # type: ignore[dict-item] # a wrong type is the test


def test_a_queue_that_cannot_be_partitioned_is_refused() -> None:
    with pytest.raises(InvalidNameError):
        partitioned(" ", 2)
    with pytest.raises(InvalidOptionError):
        partitioned("a}b", 2)
