"""The options that all commands share, and the connection that they make."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Final, TypeAlias

import attrs
from cyclopts import Parameter

from terzetto.cli._output import Output
from terzetto.redis import Redis, connect

ALL: Final = Parameter(name="--all", negative="")
"""An option that means all there are, instead of those that are named."""

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
        async with connect(self.url, client_name="terzetto-cli") as redis:
            yield redis


def read_payload(word: str) -> bytes:
    """Return the bytes that a word of the command stands for; ``-`` is standard input."""
    return sys.stdin.buffer.read() if word == "-" else word.encode("utf-8", "surrogateescape")
