"""Errors in one line."""

from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError

from terzetto._shared._texts import describe_error, each_error, printable


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("x"), "ValueError: x"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ResponseError("WRONGTYPE Operation"), "ResponseError: WRONGTYPE Operation"),
        (
            ExceptionGroup("two", [ValueError("x"), ExceptionGroup("in", [OSError("gone")])]),
            "ExceptionGroup: two (ValueError: x; ExceptionGroup: in (OSError: gone))",
        ),
    ],
)
def test_an_error_is_told_with_its_text(error: BaseException, text: str) -> None:
    assert describe_error(error) == text


def nested(depth: int, copies: int = 1) -> BaseException:
    error: ExceptionGroup[Exception] = ExceptionGroup("g", [ValueError("x")])
    for _ in range(depth):
        error = ExceptionGroup[Exception]("g", [error] * copies)
    return error


def deep() -> BaseException:
    return nested(3000)


def shared() -> BaseException:
    """Return a group in which one error is a billion times."""
    return nested(30, copies=2)


def wide() -> BaseException:
    return ExceptionGroup("g", [ValueError(f"{number}") for number in range(10_000)])


@pytest.mark.parametrize("make", [deep, shared, wide])
def test_what_is_said_of_any_group_has_an_end(make: Callable[[], BaseException]) -> None:
    error = make()
    text = describe_error(error)
    assert text.startswith("ExceptionGroup: g (")
    assert "…" in text
    assert len(text) < 5000
    assert any(isinstance(each, ValueError) for each in each_error(error))
    assert printable(error) is None


def test_an_ordinary_group_can_be_written_and_one_in_a_circle_of_causes_too() -> None:
    error = ExceptionGroup("two", [ValueError("x"), OSError("y")])
    error.exceptions[0].__cause__ = error
    assert printable(error) is error


class ExitingError(Exception):
    def __str__(self) -> str:
        raise SystemExit("as told")


def test_an_error_whose_text_ends_the_program_is_told_without_it() -> None:
    assert describe_error(ExitingError()) == "ExitingError: its text cannot be had: SystemExit"
