"""Event streams on Redis: adding, reading, and sharing the work.

A `Stream` takes events. A `Reader` gets every event of its streams, from any
place on; a `Sink` shares them with the other instances of its name, each event
going to one until it is acknowledged. The layout in Redis is that of Pulse, so
Go processes can be at the other end.
"""

from terzetto.streaming._checkpoint import Checkpoint
from terzetto.streaming._dead import DeadLetter, DeadLetters, ReplayError
from terzetto.streaming._event import Event, NewEvent
from terzetto.streaming._filters import InvalidPatternError, Matcher
from terzetto.streaming._find import find_streams
from terzetto.streaming._gap import Gap
from terzetto.streaming._names import stream_key
from terzetto.streaming._positions import NEWEST, OLDEST, Position, Start
from terzetto.streaming._reader import Reader
from terzetto.streaming._sink import Sink
from terzetto.streaming._stream import GroupInfo, Stream, StreamInfo
from terzetto.streaming._subscription import Subscription
from terzetto.streaming._typed import Handler, TypedStream, UnreadablePayloadError

__all__ = [
    "NEWEST",
    "OLDEST",
    "Checkpoint",
    "DeadLetter",
    "DeadLetters",
    "Event",
    "Gap",
    "GroupInfo",
    "Handler",
    "InvalidPatternError",
    "Matcher",
    "NewEvent",
    "Position",
    "Reader",
    "ReplayError",
    "Sink",
    "Start",
    "Stream",
    "StreamInfo",
    "Subscription",
    "TypedStream",
    "UnreadablePayloadError",
    "find_streams",
    "stream_key",
]
