"""A cluster for all tests that do no more than move its slots and fill it."""

from collections.abc import AsyncGenerator, Generator

import pytest

from terzetto.redis import connect
from terzetto.server import Cluster, open_cluster
from tests.redis.kept import kept
from tests.redis.moving import SLOT


@pytest.fixture(scope="session")
def _shared_masters() -> Generator[Cluster]:
    with kept(lambda: open_cluster(replicas=0)) as cluster:
        yield cluster


@pytest.fixture
async def masters(_shared_masters: Cluster) -> AsyncGenerator[Cluster]:
    """Return a cluster of three masters, empty, of which no slot is on its way."""
    yield _shared_masters
    for member in _shared_masters.members:
        async with connect(member.url) as client:
            await client.execute("CLUSTER", "SETSLOT", SLOT, "STABLE")
            await client.execute("FLUSHALL")
