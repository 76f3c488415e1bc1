"""What `open_embedded` promises to one program: it answers, keeps, restarts, and ends."""

import pytest
import trio

from terzetto.server import EmbeddedServer, open_embedded


async def ask(server: EmbeddedServer, *lines: str) -> bytes:
    stream = await trio.open_unix_socket(str(server.socket_path))
    async with stream:
        await stream.send_all("".join(line + "\r\n" for line in lines).encode())
        return await stream.receive_some(65536)


async def test_answers_on_its_socket(server: EmbeddedServer) -> None:
    assert await ask(server, "PING") == b"+PONG\r\n"


async def test_answers_on_its_port(server: EmbeddedServer) -> None:
    assert server.port is not None
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        await stream.send_all(b"PING\r\n")
        assert await stream.receive_some(100) == b"+PONG\r\n"


async def test_two_private_servers_share_nothing(server: EmbeddedServer) -> None:
    async with open_embedded() as other:
        await ask(server, "SET key here")
        assert await ask(other, "GET key") == b"$-1\r\n"


async def test_nothing_of_a_private_server_remains() -> None:
    async with open_embedded() as server:
        directory = server.directory
        assert directory.exists()
    assert not directory.exists()


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_embedded():
            raise KeyError("mine")
