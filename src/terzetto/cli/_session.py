"""The options that all commands share, and the connection that they make."""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Final, TypeAlias

import attrs
import trio
from cyclopts import CycloptsError, Parameter
from redis.exceptions import ResponseError

from terzetto._shared._encoding import encode_text
from terzetto.cli._output import Output, Record, Seen, complain
from terzetto.errors import TerzettoError
from terzetto.redis import LinkError, Redis, UrlError, connect

_STANDARD_INPUT: Final = 0
_CHUNK: Final = 65_536  # bytes of one read

ALL: Final = Parameter(name="--all", negative="")
"""An option that means all there are, instead of those that are named."""


def _refuse_option(_: type, word: str) -> None:
    if word.startswith("--"):
        raise ValueError(f"there is no option {word}; a payload that begins so comes by -")


Payload: TypeAlias = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_refuse_option)]
"""What is sent along: a word, or ``-`` for what standard input has."""

Names: TypeAlias = Annotated[str, Parameter(required=True)]
"""A word of which there has to be one, and may be more."""

Flag: TypeAlias = Annotated[bool, Parameter(negative="")]
"""An option that is there or not."""


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class View:
    """How to show what a command finds.

    Attributes:
        json: Show JSON instead of text.
    """

    json: Flag = False

    @property
    def output(self) -> Output:
        """Where to show it."""
        return Output(as_json=self.json)


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Target(View):
    """Which Redis to look at.

    Attributes:
        url: Where Redis is: redis://, rediss://, unix://, redis-sentinel://, redis-cluster:// or embedded:///dir.
    """

    url: Annotated[str | None, Parameter(env_var="REDIS_URL")] = None

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Redis]:
        """Connect for the time of a block."""
        if not self.url:
            raise UrlError("no URL: give --url, or set REDIS_URL")
        async with connect(self.url, client_name="terzetto-cli") as redis:
            yield redis


async def read_payload(word: str) -> bytes:
    """Return the bytes that a word of the command stands for; ``-`` is standard input.

    If cancelled, a thread goes on to read until the process ends.
    """
    if word == "-":
        return await trio.to_thread.run_sync(_read_standard_input, abandon_on_cancel=True)
    return encode_text(word)


def _read_standard_input() -> bytes:
    # Not `sys.stdin`: the thread may be left behind, and hold its lock when Python ends.
    return b"".join(iter(lambda: os.read(_STANDARD_INPUT, _CHUNK), b""))


def check_chosen(names: Collection[str], *, everything: bool) -> None:
    """Check that a user has named some, or said all.

    Raises:
        CycloptsError: neither was done, or both.
    """
    if bool(names) == everything:
        raise CycloptsError(msg="name some, or give --all")


async def look_at_each(names: Iterable[str], look: Callable[[str], Awaitable[Record]]) -> Seen:
    """Look at what is called so; where a key is not what it should be, go on with the others."""
    records: list[Record] = []
    broken: dict[str, str] = {}
    for name in names:
        try:
            records.append(await look(name))
        except ResponseError as error:
            broken[name] = str(error)
    return Seen(records, broken)


async def do_each(names: Iterable[str], act: Callable[[str], Awaitable[None]]) -> int:
    """Do something with each of `names`; complain of those with which it can't be done, and go on.

    Returns:
        The exit code.
    """
    code = 0
    for name in names:
        try:
            await act(name)
        except TerzettoError as error:
            if isinstance(error, LinkError):
                raise
            complain(str(error))
            code = 1
    return code
