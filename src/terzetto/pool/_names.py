"""The names that a pool gives to things in Redis, and the checks of what users name.

Pure. Event names are single letters on the wire; maps and streams are named
after the pool, except for workers' streams, which have no pool in their name.
"""

from typing import Final

import attrs

from terzetto._shared._names import check_name
from terzetto.errors import InvalidNameError, InvalidPayloadError

MAX_POOL_LENGTH: Final = 480
MAX_KEY_BYTES: Final = 64 * 1024
MAX_PAYLOAD_BYTES: Final = 512 * 1024 * 1024 - 1024 * 1024

SINK: Final = "events"
STREAM_MAX_LEN: Final = 1000
"""The cap of nodes' and workers' streams, as peers set it."""

INIT: Final = "i"
START: Final = "j"
STOP: Final = "s"
NOTIFY: Final = "n"
ACK: Final = "a"
RETURN: Final = "d"
TOLD: Final = "t"
"""An event of nodes of ours: a start that was read for the node that is told."""


def check_pool(name: str) -> str:
    """Return `name` if a pool may be called so.

    Raises:
        InvalidNameError: it is empty, too long, or has a forbidden character.
    """
    return check_name("pool", name, limit=MAX_POOL_LENGTH)


def has_hash_tag(name: str) -> bool:
    """Tell whether `name` has a part in braces, which alone says where a cluster puts it."""
    tag = name.partition("{")[2]
    return tag.find("}") > 0


def tag(name: str, hash_tag: str) -> str:
    """Return the name of a pool with braces around `hash_tag`, where it first occurs in it.

    Raises:
        InvalidNameError: it does not occur, has a brace itself, or the name has
            another hash tag already.
    """
    if not isinstance(hash_tag, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"a hash tag is a str, not {type(hash_tag).__name__}")
    if not hash_tag or "{" in hash_tag or "}" in hash_tag:
        raise InvalidNameError(
            f"{hash_tag!r} is no hash tag: give a part of the name without braces"
        )
    if has_hash_tag(name):
        if name.partition("{")[2].partition("}")[0] == hash_tag:
            return name
        raise InvalidNameError(f"pool {name!r} has another hash tag than {hash_tag!r} already")
    if "{" in name or hash_tag not in name:
        raise InvalidNameError(
            f"{hash_tag!r} cannot be the hash tag of pool {name!r}: give a part of its name"
        )
    return name.replace(hash_tag, f"{{{hash_tag}}}", 1)


def check_schedule(pool: str, name: str) -> str:
    """Return the name of the map of a schedule.

    Raises:
        InvalidNameError: the name cannot be one, or would be a map of this pool, or
            of a pool whose name goes on where this one's ends.
    """
    map_name = check_name("schedule", f"{pool}:{name}")
    before, _, last = name.rpartition(":")
    if last in RESERVED:
        owner = f"{pool}:{before}" if before else pool
        raise InvalidNameError(
            f"a schedule cannot be called {name!r}: {map_name!r} is a map of pool {owner!r} itself"
        )
    return map_name


def check_key(key: str) -> str:
    """Return `key` if a job may be called so.

    Raises:
        InvalidNameError: it is empty, has a ``=``, is not UTF-8, or is longer
            than 64 KiB.
        TypeError: it is not a `str`.
    """
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"a job's key is a str, not {type(key).__name__}")
    if not key:
        raise InvalidNameError("a job's key may not be empty: give it a character")
    if "=" in key:
        raise InvalidNameError(f"a job's key may not have a '=': {key[:80]!r}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidNameError(
            f"a job's key is UTF-8, and character {error.start} of {key[:80]!r} is not"
        ) from error
    if size > MAX_KEY_BYTES:
        raise InvalidNameError(
            f"a job's key of {size} bytes is too long: shorten it to {MAX_KEY_BYTES}"
        )
    return key


def check_payload(payload: bytes) -> bytes:
    """Return `payload` if it can be sent.

    Raises:
        InvalidPayloadError: Redis would not take a value of that size.
        TypeError: it is not `bytes`.
    """
    if not isinstance(payload, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise InvalidPayloadError(
            f"a payload of {len(payload)} bytes is more than a value of Redis can hold"
        )
    return payload


@attrs.frozen
class Names:
    """What the pool `pool` is made of in Redis; names of maps and streams, not keys."""

    pool: str

    @property
    def stream(self) -> str:
        """The stream that jobs, stops and notifications are sent to."""
        return f"{self.pool}:pool"

    @property
    def workers(self) -> str:
        """Worker id to creation ns, or ``-`` while it is being removed."""
        return f"{self.pool}:workers"

    @property
    def worker_keepalive(self) -> str:
        """Worker id to the ns of its last sign of life."""
        return f"{self.pool}:worker-keepalive"

    @property
    def node_keepalive(self) -> str:
        """Node id to the ns of its last sign of life."""
        return f"{self.pool}:node-keepalive"

    @property
    def cleanup(self) -> str:
        """Worker id to the ns at which a peer began to clean up after it."""
        return f"{self.pool}:cleanup"

    @property
    def jobs(self) -> str:
        """Worker id to the list of the keys that it runs."""
        return f"{self.pool}:jobs"

    @property
    def payloads(self) -> str:
        """Job key to payload, as long as the job is accepted and not ended."""
        return f"{self.pool}:job-payloads"

    @property
    def pending(self) -> str:
        """Job key to the ns until which its dispatch is pending: the guard."""
        return f"{self.pool}:pending-jobs"

    @property
    def shutdown(self) -> str:
        """Holds a key once the pool is being shut down."""
        return f"{self.pool}:shutdown"

    @property
    def tickers(self) -> str:
        """Full ticker name to the time of its next tick and its interval."""
        return f"{self.pool}:tickers"

    @property
    def dead_letters(self) -> str:
        """Job key to the letter of a job that was given up; a map of ours, unknown to Go."""
        return f"{self.pool}:dead-letters"

    def node_stream(self, node_id: str) -> str:
        """Return the stream on which a node hears answers."""
        return f"{self.pool}:node:{node_id}"

    @staticmethod
    def worker_stream(worker_id: str) -> str:
        """Return the stream on which a worker is told what to do."""
        return f"worker:{worker_id}"


RESERVED: Final = frozenset(
    {
        "cleanup",
        "dead-letters",
        "job-payloads",
        "jobs",
        "node-keepalive",
        "pending-jobs",
        "pool",
        "shutdown",
        "tickers",
        "worker-keepalive",
        "workers",
    }
)
"""Suffixes that are the pool's own: no schedule may be called so."""
