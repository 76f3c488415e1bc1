"""Crash injection: makes an actor of any class raise where and when a test wants it.

`inject` wraps a factory. The actor it makes is of a subclass whose messages and
hooks look at a `CrashPlan` first; refs, messages and types stay those of the
original class. The plan is shared by all lives, so it can let the first life
crash and the second one live.
"""

import inspect
from collections import Counter
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast

import attrs

from terzetto.actor import Actor

A = TypeVar("A", bound=Actor)


class InjectedCrash(Exception):  # noqa: N818 - a test catches it by what it is
    """What an injected crash raises unless the plan says otherwise."""


@attrs.frozen
class _Crash:
    error: BaseException
    calls: frozenset[int] | None


@attrs.define(eq=False)
class CrashPlan:
    """Which calls raise, counted by name over all lives."""

    calls: Counter[str] = attrs.field(factory=Counter[str])
    """How often each message or hook has been called."""

    _crashes: dict[str, _Crash] = attrs.field(factory=dict[str, _Crash])

    def crash(self, name: str, *calls: int, error: BaseException | None = None) -> "CrashPlan":
        """Let these calls of the message or hook `name` raise: 1 is the first; none means all.

        Returns the plan itself, so that calls can be chained.
        """
        error = error or InjectedCrash(f"injected into {name}")
        self._crashes[name] = _Crash(error, frozenset(calls) or None)
        return self

    def calm(self, name: str) -> None:
        """Let `name` raise no more."""
        self._crashes.pop(name, None)

    def check(self, name: str) -> None:
        """Count a call of `name`, and raise if the plan says so."""
        self.calls[name] += 1
        crash = self._crashes.get(name)
        if crash is not None and (crash.calls is None or self.calls[name] in crash.calls):
            raise crash.error


def inject(factory: Callable[[], A], plan: CrashPlan) -> Callable[[], A]:
    """Return a factory of the same actors, which crash as `plan` says."""
    classes: dict[type, type] = {}

    def make() -> A:
        actor = factory()
        cls = type(actor)
        if cls not in classes:
            classes[cls] = _subclass(cls, plan)
        # The subclass adds methods only, so an object of the one may become the other.
        actor.__class__ = classes[cls]
        return actor

    original: Any = factory
    while isinstance(original, partial):
        original = original.func
    # A child is named after its factory.
    make.__name__ = getattr(original, "__name__", make.__name__)
    return make


def _subclass(cls: type, plan: CrashPlan) -> type:
    methods: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__}
    for name in dir(cls):
        method = inspect.getattr_static(cls, name)
        if inspect.iscoroutinefunction(method) and not name.startswith("_") and name != "run":
            methods[name] = _checked(name, method, plan)
    return type(cls)(cls.__name__, (cls,), methods)


def _checked(name: str, method: Callable[..., Any], plan: CrashPlan) -> Callable[..., Any]:
    @wraps(method)
    async def checked(*args: object, **kwargs: object) -> object:
        plan.check(name)
        return cast("object", await method(*args, **kwargs))

    return checked
