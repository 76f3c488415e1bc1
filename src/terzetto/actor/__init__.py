"""Supervised actors for trio: typed messages, bounded mailboxes, restarts, orderly ends.

An actor is a class whose public ``async def`` methods are messages. A
supervisor starts it, restarts it when it crashes, and stops it in order; a
`Ref` reaches it. Nothing in here knows of Redis.
"""

from ._actor import Actor
from ._backoff import Backoff
from ._channels import as_channel, feed
from ._context import Context, Timer
from ._describe import Description, render
from ._errors import (
    ActorCrashedError,
    ActorStoppedError,
    AskCycleError,
    ChildLimitError,
    ChildNameError,
    MailboxFull,
    MessageError,
    Reject,
    SpecError,
    StrayCancelledError,
    UnknownChildError,
)
from ._events import (
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
from ._handle import Supervisor
from ._message import Message
from ._open import open_child, open_supervisor, open_tree, run_actor
from ._ref import Ref
from ._serve import serve
from ._tree import Child, Tree
from ._types import AutoShutdown, Exit, Restart, State, Stop, Strategy

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
    "MailboxFull",
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
    "as_channel",
    "feed",
    "open_child",
    "open_supervisor",
    "open_tree",
    "render",
    "run_actor",
    "serve",
]
