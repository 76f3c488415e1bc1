"""A lane of a worker: the orders for one key, carried out one after the other.

The worker has a task for each lane, and cancels its scope to break a start off.
"""

from collections import deque

import attrs
import trio

from terzetto.pool._order import Order


@attrs.define(eq=False)
class Lane:
    """The orders for one key; the first is being carried out."""

    key: str
    orders: deque[Order] = attrs.field(factory=deque[Order])
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
