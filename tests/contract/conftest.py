"""Every kind of server that a client can be connected to, for the same tests.

The servers of a kind are started once for all tests of a module, since no test here
harms them; each test finds them empty.
"""

import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest

from terzetto.redis import Redis, connect
from terzetto.server import open_cluster, open_embedded, open_sentinel
from terzetto.testing import open_proxy
from tests.redis.certificates import Authority, Tls, tls_here
from tests.redis.kept import kept


@attrs.frozen(kw_only=True)
class Deployment:
    """Where to connect to, and with which options."""

    kind: str
    url: str
    tls: ssl.SSLContext | None = None

    def connect(self, *, max_in_flight: int | None = None) -> AbstractAsyncContextManager[Redis]:
        return connect(self.url, tls=self.tls, max_in_flight=max_in_flight)


Opening = AbstractAsyncContextManager[Deployment]


@asynccontextmanager
async def over_unix() -> AsyncGenerator[Deployment]:
    async with open_embedded() as server:
        yield Deployment(kind="unix", url=server.url)


@asynccontextmanager
async def over_tcp() -> AsyncGenerator[Deployment]:
    async with open_embedded(port=0) as server:
        yield Deployment(kind="tcp", url=f"redis://127.0.0.1:{server.port}")


@asynccontextmanager
async def over_tls() -> AsyncGenerator[Deployment]:
    authority = Authority()
    front = authority.server_context("127.0.0.1")
    async with open_embedded() as server, open_proxy(server.url, tls=front) as proxy:
        yield Deployment(kind="tls", url=proxy.url, tls=authority.client_context())


@asynccontextmanager
async def over_proxy() -> AsyncGenerator[Deployment]:
    async with open_embedded() as server, open_proxy(server.url) as proxy:
        yield Deployment(kind="proxy", url=proxy.url)


@asynccontextmanager
async def over_cluster() -> AsyncGenerator[Deployment]:
    async with open_cluster() as cluster:
        yield Deployment(kind="cluster", url=cluster.url)


@asynccontextmanager
async def over_sentinel() -> AsyncGenerator[Deployment]:
    async with open_sentinel() as group:
        yield Deployment(kind="sentinel", url=group.url)


@asynccontextmanager
async def over_cluster_with_tls() -> AsyncGenerator[Deployment]:
    async with certified() as (authority, tls), open_cluster(tls=tls) as cluster:
        yield Deployment(kind="cluster tls", url=cluster.url, tls=authority.client_context())


@asynccontextmanager
async def over_sentinel_with_tls() -> AsyncGenerator[Deployment]:
    async with certified() as (authority, tls), open_sentinel(tls=tls) as group:
        yield Deployment(kind="sentinel tls", url=group.url, tls=authority.client_context())


@asynccontextmanager
async def certified() -> AsyncGenerator[tuple[Authority, Tls]]:
    """Provide the files of a server with TLS, and let such servers be found."""
    authority = Authority()
    with tempfile.TemporaryDirectory() as directory:
        tls = authority.files(Path(directory), "127.0.0.1")
        async with tls_here(tls):
            yield authority, tls


KINDS: dict[str, Callable[[], Opening]] = {
    "unix": over_unix,
    "tcp": over_tcp,
    "tls": over_tls,
    "proxy": over_proxy,
    "sentinel": over_sentinel,
    "cluster": over_cluster,
    "sentinel tls": over_sentinel_with_tls,
    "cluster tls": over_cluster_with_tls,
}


@pytest.fixture(params=list(KINDS), scope="module")
def deployment(request: pytest.FixtureRequest) -> Generator[Deployment]:
    """Return one deployment after the other."""
    with kept(KINDS[request.param]) as deployment:
        yield deployment


@pytest.fixture
async def client(deployment: Deployment) -> AsyncGenerator[Redis]:
    """Return a client that is connected to `deployment`, which is empty."""
    async with deployment.connect() as redis:
        await redis.execute("FLUSHALL")
        await redis.execute("SCRIPT", "FLUSH")
        yield redis
