"""A question to a server, for who starts it: one connection, one command, one reply.

It exists because this package may not use the link, which others build upon it.
Called by `_topology`.
"""

from typing import TypeAlias

import hiredis
import trio

from terzetto.server._process import EmbeddedServer

PATIENCE = 5.0  # seconds after which a server that does not reply counts as paused
Reply: TypeAlias = "str | int | list[Reply] | hiredis.ReplyError | None"


async def ask(server: EmbeddedServer, *words: str) -> Reply:
    """Return the reply of `server` to the command of `words`; an error reply as a value.

    No word may have a space in it.

    Raises:
        OSError: the server is down, went down before it replied, or is paused.
        trio.BrokenResourceError: it went down before the command was sent.
    """
    reader = hiredis.Reader(encoding="utf-8")
    with trio.move_on_after(PATIENCE):
        async with await trio.open_unix_socket(str(server.socket_path)) as stream:
            await stream.send_all(f"{' '.join(words)}\r\n".encode())
            while True:
                reply: Reply = reader.gets()
                # False is "no reply yet"; RESP2, which this connection speaks, has no false.
                if reply is not False:
                    return reply
                chunk = await stream.receive_some()
                if not chunk:
                    raise ConnectionResetError(f"{server.socket_path} closed before it replied")
                reader.feed(chunk)
    raise TimeoutError(f"{server.socket_path} did not reply within {PATIENCE:g} s")


async def ask_info(server: EmbeddedServer, *words: str) -> dict[str, str]:
    """Return the reply to a command like INFO, as its fields; none while it can't answer."""
    reply = await ask(server, *words)
    if not isinstance(reply, str):
        return {}
    pairs = (line.partition(":") for line in reply.splitlines())
    return {name: value for name, colon, value in pairs if colon}
