"""The window into a running tree: its picture, its owner, and the socket's life."""

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from terzetto.actor import Child, Description, Tree, WindowError, look, serve
from terzetto.errors import InvalidOptionError
from terzetto.testing import Probe


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tree.sock"


async def until_shown(path: Path) -> Description:
    """Look until the tree is there."""
    while True:
        try:
            picture = await look(path)
        except WindowError:
            await trio.sleep(0.01)  # a socket that is not there yet has no event
        else:
            if picture.children:
                return picture


class Served:
    """A tree that is served for the time of a block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nursery = trio.open_nursery()

    async def __aenter__(self) -> Description:
        nursery = await self.nursery.__aenter__()
        nursery.start_soon(self.run)
        self.scope = nursery.cancel_scope
        return await until_shown(self.path)

    async def run(self) -> None:
        await serve(Tree(name="shop", children=(Child(Probe, name="till"),)), inspect=self.path)

    async def __aexit__(self, *error: object) -> None:
        self.scope.cancel()
        await self.nursery.__aexit__(None, None, None)


async def test_the_picture_of_a_served_tree_is_shown(path: Path) -> None:
    async with Served(path) as picture:
        assert (picture.name, [child.name for child in picture.children]) == ("shop", ["till"])
        assert picture.children[0].type_name == "Probe"
        assert picture == await look(path)


async def test_only_the_owner_may_open_the_socket_and_it_goes_with_the_tree(path: Path) -> None:
    async with Served(path):
        assert stat.S_IMODE((await trio.Path(path).stat()).st_mode) == 0o600
    assert not await trio.Path(path).exists()


async def test_the_socket_of_a_dead_process_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with Served(path) as picture:
        assert picture.name == "shop"


async def test_the_socket_of_a_living_process_is_refused(path: Path) -> None:
    async with Served(path):
        with pytest.raises(InvalidOptionError, match="name another path"):
            await serve(Tree(children=(Child(Probe),)), inspect=path)
        await look(path)


async def test_what_is_no_socket_is_left_as_it_is(path: Path) -> None:
    file = trio.Path(path)
    await file.write_text("mine")
    with pytest.raises(InvalidOptionError, match="no socket"):
        await serve(Tree(children=(Child(Probe),)), inspect=path)
    assert await file.read_text() == "mine"


async def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path / "none" / "tree.sock", tmp_path / ("x" * 200)):
        with pytest.raises(InvalidOptionError, match="can't be used"):
            await serve(Tree(children=(Child(Probe),)), inspect=place)


async def test_one_who_does_not_read_holds_up_nobody(path: Path) -> None:
    async with Served(path):
        silent = [await trio.open_unix_socket(str(path)) for _ in range(4)]
        with trio.fail_after(20):
            assert (await look(path)).name == "shop"
        for stream in silent:
            await stream.aclose()


@pytest.mark.parametrize("shown", [b"", b"{}", b"[]", b'{"children": 3}', b"\xff", b"no json"])
async def test_what_is_no_picture_is_an_error(path: Path, shown: bytes) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()

    async def answer() -> None:
        peer, _ = await listener.accept()
        await peer.send(shown)
        peer.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(WindowError, match="is no tree"):
            await look(path)
    listener.close()


async def test_nobody_there_is_an_error_that_says_what_to_do(path: Path) -> None:
    with pytest.raises(WindowError, match="serve\\(tree, inspect=path\\)"):
        await look(os.fspath(path))
