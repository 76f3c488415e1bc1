"""Supervised actors for trio: typed messages, bounded mailboxes, restarts, orderly ends.

An actor is a class whose public ``async def`` methods are messages. A
supervisor starts it, restarts it when it crashes, and stops it in order; a
`Ref` reaches it. Nothing in here knows of Redis.
"""

from terzetto.actor._actor import Actor
from terzetto.actor._backoff import Backoff
from terzetto.actor._channels import as_channel, feed
from terzetto.actor._context import Context, Timer
from terzetto.actor._describe import Description, render
from terzetto.actor._errors import (
    ActorCrashedError,
    ActorStoppedError,
    AskCycleError,
    ChildLimitError,
    ChildNameError,
    MessageError,
    Reject,
    SpecError,
    StrayCancelledError,
    UnknownChildError,
)
from terzetto.actor._events import (
    Crashed,
    CutOff,
    DeadLetter,
    Escalated,
    Event,
    Missed,
    Observer,
    Restarted,
    Started,
    Stopped,
)
from terzetto.actor._handle import Supervisor
from terzetto.actor._message import Message
from terzetto.actor._open import open_child, open_supervisor, open_tree, run_actor
from terzetto.actor._ref import Ref
from terzetto.actor._serve import serve
from terzetto.actor._tree import Child, Tree
from terzetto.actor._types import AutoShutdown, Exit, Restart, State, Stop, Strategy
from terzetto.actor._window import WindowError, look

__all__ = [
    "Actor",
    "ActorCrashedError",
    "ActorStoppedError",
    "AskCycleError",
    "AutoShutdown",
    "Backoff",
    "Child",
    "ChildLimitError",
    "ChildNameError",
    "Context",
    "Crashed",
    "CutOff",
    "DeadLetter",
    "Description",
    "Escalated",
    "Event",
    "Exit",
    "Message",
    "MessageError",
    "Missed",
    "Observer",
    "Ref",
    "Reject",
    "Restart",
    "Restarted",
    "SpecError",
    "Started",
    "State",
    "Stop",
    "Stopped",
    "Strategy",
    "StrayCancelledError",
    "Supervisor",
    "Timer",
    "Tree",
    "UnknownChildError",
    "WindowError",
    "as_channel",
    "feed",
    "look",
    "open_child",
    "open_supervisor",
    "open_tree",
    "render",
    "run_actor",
    "serve",
]
