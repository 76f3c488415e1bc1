"""The command as its users have it: words in, exit code and text out."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import attrs
import pytest
import trio

from terzetto.cli import main
from terzetto.server import EmbeddedServer


@attrs.frozen
class Answer:
    """What the command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - as JSON is
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.out.splitlines()]


class Command(Protocol):
    """Runs the command on the test's own server."""

    def __call__(self, *words: str) -> Awaitable[Answer]: ...


@pytest.fixture
def command(server: EmbeddedServer, capfd: pytest.CaptureFixture[str]) -> Command:
    async def run(*words: str) -> Answer:
        capfd.readouterr()
        url = () if words[0] == "actors" else ("--url", server.url)
        code = await trio.to_thread.run_sync(main, [*words, *url])
        text = capfd.readouterr()
        return Answer(code, text.out, text.err)

    return run


@pytest.fixture
def bare(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run the command without a server."""

    def run(*words: str) -> Answer:
        capfd.readouterr()
        code = main(words)
        text = capfd.readouterr()
        return Answer(code, text.out, text.err)

    return run
