"""A picture of a running tree: what is where, in what state, and what waits.

Made at one instant and never updated; reading it costs the tree nothing. Behind
`Supervisor.describe` and `render`.
"""

from typing import TYPE_CHECKING, Literal

import attrs
import trio

from terzetto.actor._cell import ActorCell
from terzetto.actor._node import Node
from terzetto.actor._supervisor import SupervisorCell
from terzetto.actor._types import State

if TYPE_CHECKING:
    from terzetto.actor._handle import Supervisor


@attrs.frozen(kw_only=True)
class Description:
    """One place of a tree, and those below it in order of start."""

    name: str
    path: str
    kind: Literal["actor", "supervisor"]
    type_name: str
    """The actor's class, or the supervisor's strategy."""

    state: State
    restarts: int
    """How often it was started again."""

    waiting: int = 0
    """How many messages wait in the mailbox."""

    capacity: int = 0
    """How many messages the mailbox holds."""

    oldest: float | None = None
    """For how many seconds the first of them has waited."""

    children: "tuple[Description, ...]" = ()


def describe_node(node: Node) -> Description:
    """Return the picture of `node` and all below it, as it is now."""
    return _describe(node, trio.current_time())


def render(tree: "Supervisor | Description") -> str:
    """Draw a tree as text, one line for each place."""
    description = tree if isinstance(tree, Description) else tree.describe()
    lines = [_line(description)]
    _draw(description.children, "", lines)
    return "\n".join(lines)


def _describe(node: Node, now: float) -> Description:
    below: SupervisorCell | None
    if isinstance(node, ActorCell):
        below = node.children
        type_name = "not started" if node.actor_type is None else node.actor_type.__name__
        waiting, capacity = len(node.mailbox.queue), node.mailbox.capacity
        sent_at = node.mailbox.oldest()
        oldest = None if sent_at is None else now - sent_at
    else:
        below = node if isinstance(node, SupervisorCell) else None
        type_name = "" if below is None else below.tree.strategy
        waiting, capacity, oldest = 0, 0, None
    nodes = [] if below is None else [below.nodes[order] for order in sorted(below.nodes)]
    return Description(
        name=node.name,
        path=node.path,
        kind="actor" if isinstance(node, ActorCell) else "supervisor",
        type_name=type_name,
        state=node.state,
        restarts=node.restarts,
        waiting=waiting,
        capacity=capacity,
        oldest=oldest,
        children=tuple(_describe(child, now) for child in nodes),
    )


def _line(description: Description) -> str:
    parts = [f"{description.name} ({description.type_name}) {description.state}"]
    if description.restarts:
        parts.append(f"restarts {description.restarts}")
    if description.waiting:
        waiting = f"mailbox {description.waiting}/{description.capacity}"
        parts.append(f"{waiting}, oldest {description.oldest or 0:.1f} s")
    return ", ".join(parts)


def _draw(children: tuple[Description, ...], indent: str, lines: list[str]) -> None:
    for number, child in enumerate(children, start=1):
        is_last = number == len(children)
        lines.append(f"{indent}{'└─ ' if is_last else '├─ '}{_line(child)}")
        _draw(child.children, indent + ("   " if is_last else "│  "), lines)
