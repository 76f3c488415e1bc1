"""The trio-native client of Redis: fast, cancellable, unshaken by outages.

`connect` opens a `Redis`, which has all of redis-py's commands over one shared,
pipelined connection, links of one's own for what blocks, and subscriptions.
"""

from terzetto.redis._client import Redis
from terzetto.redis._cluster import ClusterRedis, CrossSlotError, Master
from terzetto.redis._connect import connect
from terzetto.redis._dedicated import Dedicated
from terzetto.redis._errors import (
    AuthError,
    ConnectError,
    LinkClosedError,
    LinkError,
    LinkLostError,
    ReplyError,
    ReplyTooLongError,
    UrlError,
    WrongLinkError,
)
from terzetto.redis._find import find_keys
from terzetto.redis._lock import Lock, LockLostError
from terzetto.redis._pipeline import Pipeline, Queued, Transaction, UnsentError
from terzetto.redis._pubsub import Gap, Message, Subscription
from terzetto.redis._request import Glance, LinkStatistics, LinkStatus, State
from terzetto.redis._script import RegisteredScript, Script
from terzetto.redis._url import CredentialProvider, Credentials
from terzetto.redis._watched_keys import Watching
from terzetto.redis._wire import Arg, Reply

__all__ = [
    "Arg",
    "AuthError",
    "ClusterRedis",
    "ConnectError",
    "CredentialProvider",
    "Credentials",
    "CrossSlotError",
    "Dedicated",
    "Gap",
    "Glance",
    "LinkClosedError",
    "LinkError",
    "LinkLostError",
    "LinkStatistics",
    "LinkStatus",
    "Lock",
    "LockLostError",
    "Master",
    "Message",
    "Pipeline",
    "Queued",
    "Redis",
    "RegisteredScript",
    "Reply",
    "ReplyError",
    "ReplyTooLongError",
    "Script",
    "State",
    "Subscription",
    "Transaction",
    "UnsentError",
    "UrlError",
    "Watching",
    "WrongLinkError",
    "connect",
    "find_keys",
]
