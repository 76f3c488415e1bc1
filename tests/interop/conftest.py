"""The Go peers, built once for all of a test session, and run once a test that asks for one."""

import fcntl
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from terzetto.server import EmbeddedServer
from tests.interop.gopeer import (
    ASYNQ_PEER,
    PULSE_PEER,
    Peer,
    PeerMissingError,
    Program,
    build_peer,
    install_command,
    open_peer,
)

_BUILT_HERE: Final = {"peer_binary", "asynq_binary", "asynq_command"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a test's time begin when its peer is built: a cold build takes minutes of a busy machine.

    What bounds the build is `BUILD_PATIENCE`.
    """
    for item in items:
        if _BUILT_HERE.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(func_only=True))


@pytest.fixture(scope="session")
def peer_binary(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the built peer that uses Pulse."""
    return _built_peer(PULSE_PEER, tmp_path_factory, worker_id)


@pytest.fixture(scope="session")
def asynq_binary(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the built peer that uses asynq."""
    return _built_peer(ASYNQ_PEER, tmp_path_factory, worker_id)


@pytest.fixture(scope="session")
def asynq_command(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return asynq's own command."""
    return _built("asynq", install_command, tmp_path_factory, worker_id)


def _built_peer(program: Program, factory: pytest.TempPathFactory, worker_id: str) -> Path:
    return _built(program.name, partial(build_peer, program), factory, worker_id)


def _built(
    name: str, build: Callable[[Path], None], factory: pytest.TempPathFactory, worker_id: str
) -> Path:
    """Return what is built; skip where it cannot be, and say what is missing.

    The processes of pytest-xdist share one build: who comes first makes it, or
    leaves the reason why there is none.
    """
    directory = factory.getbasetemp()
    if worker_id != "master":
        directory = directory.parent
    binary, missing = directory / name, directory / f"{name}.missing"
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists() and not missing.exists():
            try:
                build(binary)
            except PeerMissingError as error:
                missing.write_text(str(error))
    if missing.exists():
        pytest.skip(missing.read_text())
    return binary


@pytest.fixture
async def go(peer_binary: Path, server: EmbeddedServer) -> AsyncIterator[Peer]:
    """Return a running peer with Pulse, on the test's own server."""
    async with open_peer(peer_binary, server.url) as peer:
        yield peer


@pytest.fixture
async def asynq(asynq_binary: Path, server: EmbeddedServer) -> AsyncIterator[Peer]:
    """Return a running peer with asynq, on the test's own server."""
    async with open_peer(asynq_binary, server.url) as peer:
        yield peer
