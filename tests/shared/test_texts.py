"""Errors in one line."""

import pytest
from redis.exceptions import ResponseError

from terzetto._shared._texts import describe_error


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
