"""A program that runs servers of one kind for the tests of a module, and prints their URL.

It ends when its standard input does. Run by the fixtures in `conftest.py`.
"""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from terzetto.server import open_cluster, open_embedded, open_sentinel


@asynccontextmanager
async def single() -> AsyncGenerator[str]:
    async with open_embedded() as server:
        yield server.url


@asynccontextmanager
async def sentinel() -> AsyncGenerator[str]:
    async with open_sentinel() as group:
        yield group.url


@asynccontextmanager
async def cluster() -> AsyncGenerator[str]:
    async with open_cluster() as members:
        yield members.url


KINDS: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    "single": single,
    "sentinel": sentinel,
    "cluster": cluster,
}


async def main(kind: str) -> None:
    async with KINDS[kind]() as url:
        print(url, flush=True)  # noqa: T201 - whoever runs this program waits for the line
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
