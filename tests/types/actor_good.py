"""What must type-check: refs, children and trees keep the types of their actors."""

from collections.abc import Sequence
from functools import partial
from typing import assert_type

import attrs

from terzetto.actor import (
    Actor,
    Child,
    Context,
    Exit,
    Message,
    Ref,
    Stop,
    Supervisor,
    Tree,
    open_child,
    open_supervisor,
)


@attrs.define
class Counter(Actor):
    total: int = 0

    async def started(self, ctx: Context["Counter"]) -> None:
        assert_type(ctx.ref, Ref[Counter])
        ctx.after(1.0, Counter.add, 1)
        ctx.every(1.0, Counter.add, n=1)
        kid = await ctx.spawn(Counter, name="kid")
        assert_type(kid, Ref[Counter])

    async def stopping(self, reason: Stop) -> None: ...

    async def handed_back(self, messages: Sequence[Message]) -> None: ...

    async def add(self, n: int) -> int:
        self.total += n
        return self.total

    async def name_of(self, n: int, *, upper: bool = False) -> str:
        return str(n).upper() if upper else str(n)


@attrs.frozen
class Face:
    ref: Ref[Counter]

    async def add(self, n: int) -> int:
        return await self.ref.ask(Counter.add, n)


def counter_child(start: int) -> Child[Face]:
    return Child(partial(Counter, start), name="counter", face=Face)


async def main() -> None:
    async with open_supervisor() as top:
        assert_type(top, Supervisor)
        ref = await top.spawn(Counter, name="counter", restart="transient", mailbox=100, grace=5.0)
        assert_type(ref, Ref[Counter])
        assert_type(await ref.ask(Counter.add, 1), int)
        assert_type(await ref.ask(Counter.name_of, 1, upper=True), str)
        await ref.tell(Counter.add, 2)
        ref.tell_nowait(Counter.add, n=2)
        assert_type(await ref.wait_stopped(), Exit)
        assert_type(await top.spawn(Child(Counter)), Ref[Counter])
        assert_type(await top.spawn(counter_child(3)), Face)
        assert_type(await top.spawn(Tree(children=(Child(Counter), counter_child(1)))), Supervisor)
        assert_type(top.get("tree/counter", Face), Face)
        assert_type(top.get("tree/counter", Counter), Ref[Counter])
    async with open_child(counter_child(4)) as face:
        assert_type(face, Face)
