"""Values, and errors that stand in their place."""

import pytest
from redis.exceptions import ResponseError

from terzetto._shared._outcomes import value_or_raise


@pytest.mark.parametrize("value", [b"x", 0, None, [ResponseError("of another")]])
def test_a_value_is_returned(value: object) -> None:
    assert value_or_raise(value) is value


def test_an_error_is_raised_as_it_is() -> None:
    error = ResponseError("WRONGTYPE Operation")
    with pytest.raises(ResponseError) as raised:
        value_or_raise(error)
    assert raised.value is error
