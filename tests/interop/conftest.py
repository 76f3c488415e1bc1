"""The Go peer, built once for all of a test session, and run once a test that asks for it."""

import fcntl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from terzetto.server import EmbeddedServer
from tests.interop.gopeer import Peer, PeerMissingError, build_peer, open_peer


@pytest.fixture(scope="session")
def peer_binary(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return the built peer; skip where it cannot be built, and say what is missing.

    The processes of pytest-xdist share one build: who comes first makes it, or
    leaves the reason why there is none.
    """
    directory = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        directory = directory.parent
    binary, missing = directory / "go-peer", directory / "go-peer.missing"
    with (directory / "go-peer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists() and not missing.exists():
            try:
                build_peer(binary)
            except PeerMissingError as error:
                missing.write_text(str(error))
    if missing.exists():
        pytest.skip(missing.read_text())
    return binary


@pytest.fixture
async def go(peer_binary: Path, server: EmbeddedServer) -> AsyncIterator[Peer]:
    """Return a running peer on the test's own server."""
    async with open_peer(peer_binary, server.url) as peer:
        yield peer
