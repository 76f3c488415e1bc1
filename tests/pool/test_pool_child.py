"""Nodes and maps as children of a tree: names, restarts, and an end that closes the tree."""

import pytest
import trio

from terzetto import pool, rmap
from terzetto.actor import Tree, open_tree
from terzetto.errors import InvalidOptionError
from terzetto.redis import Redis


async def test_nodes_and_maps_are_found_by_their_names(redis: Redis) -> None:
    tree = Tree(
        name="service",
        children=(
            rmap.child("a/b", redis),
            rmap.child("a|b", redis, child_name="other"),
            pool.child("p", redis),
            pool.child("p", redis, name="second", client_only=True),
        ),
    )
    async with open_tree(tree) as top:
        assert isinstance(top.get("map a|b", rmap.Map), rmap.Map)
        assert isinstance(top.get("other", rmap.Map), rmap.Map)
        first, second = top.get("node p", pool.Node), top.get("second", pool.Node)
        assert first.id != second.id


async def test_a_shutdown_from_elsewhere_ends_a_tree_with_a_significant_node(redis: Redis) -> None:
    tree = Tree(
        name="service",
        children=(pool.child("p", redis, significant=True),),
        auto_shutdown="any",
    )
    with trio.fail_after(30):
        async with pool.open_node("p", redis) as elsewhere, open_tree(tree) as top:
            await elsewhere.shutdown()
            await top.wait_stopped()


async def test_a_node_is_never_restarted_once_it_was_closed(redis: Redis) -> None:
    await trio.lowlevel.checkpoint()
    with pytest.raises(InvalidOptionError, match="stays closed"):
        pool.child("p", redis, restart="permanent")
