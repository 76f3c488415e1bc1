"""The order in which queues are asked, and the options of servers."""

from collections import Counter
from math import sqrt
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terzetto.errors import InvalidNameError, InvalidOptionError
from terzetto.tasks import ConcurrencyLimit, Grouping, RateLimit, Task
from terzetto.tasks._limits import Limit, later
from terzetto.tasks._message import TaskMessage
from terzetto.tasks._options import ServerOptions
from terzetto.tasks._queues import QueueOrder, check_queue, check_queues


def chance(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - for an order, not for secrets


weights = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 50), min_size=1)


@given(weights, st.booleans(), st.integers())
@settings(max_examples=100)
def test_every_queue_is_asked_once_in_each_turn(
    queues: dict[str, int],
    strict: bool,  # noqa: FBT001 - drawn by Hypothesis
    seed: int,
) -> None:
    drawn = QueueOrder(queues, strict).draw(chance(seed))
    assert sorted(drawn) == sorted(queues)
    if strict:
        assert [queues[name] for name in drawn] == sorted(queues.values(), reverse=True)


def test_weights_are_the_shares_in_which_queues_come_first_and_second() -> None:
    queues = {"critical": 6, "default": 3, "low": 1}
    order, seeded, rounds = QueueOrder(queues), chance(1), 20_000
    drawn = [order.draw(seeded) for _ in range(rounds)]
    first = Counter(names[0] for names in drawn)
    for name, weight in queues.items():
        share = weight / 10
        assert abs(first[name] / rounds - share) < 5 * sqrt(share * (1 - share) / rounds)
    # Among those that come after `critical`, the shares are those of the rest.
    rest = Counter(names[1] for names in drawn if names[0] == "critical")
    assert abs(rest["default"] / rest.total() - 3 / 4) < 0.02


def test_equal_priorities_keep_their_order_when_strict() -> None:
    order = QueueOrder({"b": 2, "a": 2, "c": 5}, strict=True)
    assert order.draw(chance(1)) == ("c", "b", "a")


@pytest.mark.parametrize("name", ["", "  ", "}x", "a" * 513, "\ud800", 5, None])
def test_names_that_no_queue_can_have(name: object) -> None:
    with pytest.raises(InvalidNameError):
        check_queue(name)


@pytest.mark.parametrize("name", ["default", "Ünïcode", "a b", "x}y", "{x}", "*"])
def test_names_that_a_queue_can_have(name: str) -> None:
    assert check_queue(name) == name


@pytest.mark.parametrize("queues", [{}, {"a": 0}, {"a": -1}, {"a": 1.5}, {"a": True}, {"a": 2**31}])
def test_priorities_that_cannot_be(queues: dict[str, int]) -> None:
    with pytest.raises(InvalidOptionError):
        check_queues(queues)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"concurrency": True},
        {"shutdown_timeout": -1},
        {"poll_interval": 0},
        {"heartbeat_interval": float("nan")},
        {"lease": 1.0},
        {"lease": 10.0, "heartbeat_interval": 5.0},
        {"error_handler": 5},
        {"queues": {" ": 1}},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises((InvalidOptionError, InvalidNameError)):
        ServerOptions(**options)


async def aggregate(group: str, tasks: object) -> Task:
    raise NotImplementedError


@pytest.mark.parametrize("options", [{"grace": 0.5}, {"max_delay": -1}, {"max_size": -1}])
def test_groupings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        Grouping(aggregate=aggregate, **options)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (RateLimit, {"name": " ", "count": 1}),
        (RateLimit, {"name": "x", "count": 0}),
        (RateLimit, {"name": "x", "count": 1, "per": float("inf")}),
        (RateLimit, {"name": "x", "count": 1, "burst": -1}),
        (RateLimit, {"name": "x", "count": 1, "key": "to"}),
        (ConcurrencyLimit, {"name": "x", "count": 0}),
        (ConcurrencyLimit, {"name": "x", "count": 1.5}),
    ],
)
def test_limits_that_cannot_be(make: type[Limit], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        make(**options)


def test_whom_a_limit_is_for_and_what_it_counts_apart() -> None:
    message = TaskMessage(type="email:send", payload=b"ann", id="1", queue="low")
    rate = RateLimit(name="mail", pattern="email:", count=10, per=60, key=lambda m: "a" * 600)
    assert rate.scope(message) == "mail:" + "a" * 512
    assert (rate.per_second, rate.at_once) == (10 / 60, 10)
    assert RateLimit(name="m", count=0.5).at_once == 1
    assert ConcurrencyLimit(name="m", count=1).scope(message) == "m"
    assert ConcurrencyLimit(name="m", count=1, queue="low").scope(message) == "m"
    assert ConcurrencyLimit(name="m", count=1, queue="high").scope(message) is None
    assert ConcurrencyLimit(name="m", count=1, pattern="sms").scope(message) is None
    assert ConcurrencyLimit(name="m", count=1, key=lambda m: None).scope(message) is None


@given(st.floats(0, 1000))
def test_those_who_wait_do_not_all_come_at_the_same_moment(wait: float) -> None:
    assert max(wait, 1.0) <= later(wait) <= 1.5 * max(wait, 1.0)
