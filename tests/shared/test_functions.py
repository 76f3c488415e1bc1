"""Which functions are async."""

import functools
from functools import partial

import pytest

from terzetto._shared._functions import is_async


async def waits(payload: bytes) -> None: ...


def computes(payload: bytes) -> None: ...


@functools.wraps(waits)
def wraps_one_that_waits(payload: bytes) -> object:
    return waits(payload)


class Waits:
    async def __call__(self, payload: bytes) -> None: ...

    async def start(self, payload: bytes) -> None: ...


class Computes:
    def __call__(self, payload: bytes) -> None: ...


@pytest.mark.parametrize(
    "function", [waits, partial(waits, b""), wraps_one_that_waits, Waits(), Waits().start]
)
def test_functions_that_are_async(function: object) -> None:
    assert is_async(function)


@pytest.mark.parametrize(
    "function", [computes, partial(computes, b""), Computes(), waits.__name__, None]
)
def test_what_is_no_async_function(function: object) -> None:
    assert not is_async(function)
