"""The work that several contenders share, so that all do the same, and its arithmetic."""

from collections.abc import Collection
from statistics import quantiles

from tests.bench.harness import Figures, Stopwatch

TASKS = 100
TOLD = 200  # jobs that are stopped, or notified, one after the other
BACKLOG = 20_000  # events that a sink catches up on
READ = 200_000  # events that a reader catches up on
LATENCY_EVENTS = 500

# What follows the key of an XADD: an event of 200 bytes on a stream capped at about 1,000.
PAYLOAD = "x" * 200
EVENT = ("MAXLEN", "~", "1000", "*", "n", "user.created", "p", PAYLOAD)

# A small script: one read and one write under one key.
SCRIPT = """\
-- Count a call. KEYS[1]: a hash. ARGV[1]: the field. Returns the count so far.
local count = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('HSET', KEYS[1], 'last', ARGV[1])
return count
"""

MESSAGES = 20_000
PUBLISH_MANY = """\
-- Publish messages. ARGV[1]: the channel. ARGV[2]: how many. Returns nothing.
for number = 1, ARGV[2] do
  redis.call('PUBLISH', ARGV[1], 'message ' .. number)
end
"""

ENTRIES = 5_000
READ_AT_ONCE = 10
FILL_STREAM = """\
-- Make a stream and its group anew. KEYS[1]: the stream. ARGV[1]: how many. Returns nothing.
redis.call('DEL', KEYS[1])
for number = 1, ARGV[1] do
  redis.call('XADD', KEYS[1], '*', 'n', 'user.created', 'p', string.rep('x', 200))
end
redis.call('XGROUP', 'CREATE', KEYS[1], 'g', '0')
"""


def group_read(key: str) -> tuple[str, ...]:
    """Return the command that reads the next entries of the group."""
    return ("XREADGROUP", "GROUP", "g", "c", "COUNT", str(READ_AT_ONCE), "STREAMS", key, ">")


def rate_and_delays(delays: Collection[float], watch: Stopwatch) -> Figures:
    """Return the rate of calls that took `delays` (seconds), and their percentiles in ms."""
    return {"rate": len(delays) / watch.seconds, **delay_figures(delays)}


def delay_figures(delays: Collection[float]) -> Figures:
    """Return the percentiles of delays (seconds) in ms."""
    cuts = quantiles(delays, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}
