"""``terzetto actors``: the tree of a running process, through the socket that it shows it on."""

from pathlib import Path

import attrs

from terzetto.actor import look, render
from terzetto.cli._session import View

_HERE = View()


async def actors(path: Path, /, *, view: View = _HERE) -> None:
    """Draw the actors of a running process.

    Args:
        path: The unix socket that it shows them on: serve(tree, inspect=path).
    """
    tree = await look(path)
    view.output.say(render(tree), attrs.asdict(tree))
