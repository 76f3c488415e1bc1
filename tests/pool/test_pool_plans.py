"""What a plan gives is read once, before anything is done about it."""

from collections.abc import Iterator, Mapping
from typing import NoReturn

import pytest
import trio

from terzetto import pool
from terzetto.redis import Redis


class BrokenMapping(Mapping[str, bytes]):
    """Raises when it is read."""

    def __getitem__(self, key: str) -> bytes:
        return b""

    def __iter__(self) -> Iterator[str]:
        raise ValueError("the plan's source is away")

    def __len__(self) -> int:
        return 1


def broken_keys() -> Iterator[str]:
    yield "a"
    fail()


def fail() -> NoReturn:
    raise ValueError("the plan's source is away")


@pytest.mark.parametrize("bad_at", [1, 2])
@pytest.mark.parametrize("part", ["start", "stop"])
async def test_a_plan_whose_parts_raise_when_they_are_read_is_called_again(
    redis: Redis, caplog: pytest.LogCaptureFixture, part: str, bad_at: int
) -> None:
    calls: list[int] = []

    async def plan() -> pool.JobPlan:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        if len(calls) != bad_at:
            return pool.JobPlan()
        if part == "start":
            return pool.JobPlan(start=BrokenMapping())
        return pool.JobPlan(stop=broken_keys())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - it can be iterated

    async with (
        pool.open_node("p", redis) as node,
        node.open_schedule("s", 0.1, plan),
    ):
        with trio.fail_after(30):
            while len(calls) < 4:  # noqa: ASYNC110 - a state of several tasks
                await trio.sleep(0.01)
    assert caplog.text.count("a plan failed") == 1
    assert "crashed" not in caplog.text
