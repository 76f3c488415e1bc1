"""Specs: what a supervisor starts, as frozen values that are checked when they are made.

A spec holds no state and may be started any number of times, in any number of
trees.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar, cast, overload

import attrs

from terzetto.actor._actor import Actor
from terzetto.actor._backoff import Backoff
from terzetto.actor._checks import check_child_name, check_choice, check_count, check_seconds
from terzetto.actor._errors import SpecError
from terzetto.actor._policy import Rules
from terzetto.actor._ref import Ref
from terzetto.actor._types import AutoShutdown, Restart, Strategy

A = TypeVar("A", bound=Actor)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_RESTARTS = ("permanent", "transient", "temporary")
_STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
_AUTO = ("never", "any", "all")


def default_name(factory: object) -> str:
    """Return the name of a child that was given none: its factory's, in lower case."""
    while isinstance(factory, partial):
        factory = factory.func
    name = getattr(factory, "__name__", None) or type(factory).__name__
    return name.strip("<>").lower().replace("/", "-")


@attrs.frozen(eq=False, init=False)
class Child(Generic[T_co]):
    """How one actor is started and supervised; spawning it gives a `T_co`.

    Args:
        factory: makes the actor, anew for every start.
        name: its name among its siblings; by default made from the factory's.
        restart: ``"permanent"``, ``"transient"`` (after crashes only) or ``"temporary"``.
        grace: seconds that the message in hand has when the actor is to stop,
            and the hooks of the closing after that.
        mailbox: how many messages may wait.
        significant: whether its end by itself may close the supervisor
            (`Tree.auto_shutdown`).
        face: makes what `spawn` returns out of the ref; by default it is the ref.

    Raises:
        SpecError: an option is out of its range.
        ChildNameError: the name is malformed.
    """

    factory: Callable[[], Actor]
    name: str | None
    restart: Restart
    grace: float
    mailbox: int
    significant: bool
    face: Callable[[Any], T_co] | None

    @overload
    def __init__(
        self: "Child[Ref[A]]",
        factory: Callable[[], A],
        *,
        name: str | None = None,
        restart: Restart = "transient",
        grace: float = 5.0,
        mailbox: int = 100,
        significant: bool = False,
        face: None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "Child[T]",
        factory: Callable[[], A],
        *,
        name: str | None = None,
        restart: Restart = "transient",
        grace: float = 5.0,
        mailbox: int = 100,
        significant: bool = False,
        face: Callable[[Ref[A]], T],
    ) -> None: ...

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        name: str | None = None,
        restart: Restart = "transient",
        grace: float = 5.0,
        mailbox: int = 100,
        significant: bool = False,
        face: Callable[[Any], Any] | None = None,
    ) -> None:
        if not callable(factory):
            raise SpecError(f"factory={factory!r}: give a class or a function that makes the actor")
        if name is not None:
            check_child_name(name)
        check_choice("restart", restart, _RESTARTS)
        check_seconds("grace", grace)
        check_count("mailbox", mailbox, 1)
        if significant and restart == "permanent":
            raise SpecError("a permanent child never ends by itself: it cannot be significant")
        self.__attrs_init__(factory, name, restart, grace, mailbox, significant, face)  # pyright: ignore[reportAttributeAccessIssue,reportUnknownMemberType] - attrs makes it


@attrs.frozen(eq=False, kw_only=True)
class Tree:
    """A supervisor and what it starts, in order; spawning it gives a `Supervisor`.

    Raises:
        SpecError: an option is out of its range, or two children have one name.
    """

    name: str = "tree"
    strategy: Strategy = "one_for_one"
    children: "tuple[Child[Any] | Tree, ...]" = ()
    max_restarts: int = 3
    """How many restarts within `within` seconds are borne; one more, and the tree fails."""

    within: float = 5.0
    restart: Restart = "transient"
    """When this tree itself is restarted by the supervisor above."""

    grace: float | None = None
    """Seconds within which the whole tree must have stopped; by default the sum
    of what its children may take."""

    significant: bool = False
    auto_shutdown: AutoShutdown = "never"
    """Whether the tree closes when any, or all, of its significant children have
    ended by themselves."""

    backoff: Backoff = attrs.field(factory=Backoff)
    max_failed_starts: int = 3
    """How many restarts of one child may fail in a row; one more, and the tree fails."""

    dynamic: bool = False
    """Whether children come and go in no order: they stop together."""

    max_children: int | None = None
    """How many children there may be at a time; by default any number."""

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        check_child_name(self.name)
        check_choice("strategy", self.strategy, _STRATEGIES)
        check_choice("restart", self.restart, _RESTARTS)
        check_choice("auto_shutdown", self.auto_shutdown, _AUTO)
        check_count("max_restarts", self.max_restarts, 0)
        check_count("max_failed_starts", self.max_failed_starts, 0)
        check_seconds("within", self.within)
        if self.grace is not None:
            check_seconds("grace", self.grace)
        if self.max_children is not None:
            check_count("max_children", self.max_children, 1)
            if len(self.children) > self.max_children:
                raise SpecError(
                    f"{len(self.children)} children, but max_children={self.max_children}"
                )
        if self.dynamic and self.strategy != "one_for_one":
            raise SpecError("dynamic children have no order: their strategy is one_for_one")
        if self.significant and self.restart == "permanent":
            raise SpecError("a permanent tree never ends by itself: it cannot be significant")
        self._check_children()

    def _check_children(self) -> None:
        if not isinstance(self.children, tuple):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise SpecError("children is no tuple: write (a,) for one child")
        seen: set[str] = set()
        for child in cast("tuple[object, ...]", self.children):
            if not isinstance(child, Child | Tree):
                raise SpecError(f"{child!r} is no Child and no Tree")
            name = child.name
            if name is not None and name in seen:
                raise SpecError(f"two children of {self.name!r} are named {name!r}")
            seen.add(name or "")

    def rules(self) -> Rules:
        """Return the part of the options that the policy needs.

        :meta private:
        """
        return Rules(
            strategy=self.strategy,
            max_restarts=self.max_restarts,
            within=self.within,
            backoff=self.backoff,
            max_failed_starts=self.max_failed_starts,
            auto_shutdown=self.auto_shutdown,
            dynamic=self.dynamic,
        )
