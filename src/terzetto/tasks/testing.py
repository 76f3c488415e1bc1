"""Task queues without Redis, for the tests of programs that use them.

Give a `MemoryBroker` where a client, a server, a scheduler or an inspector
wants a connection to Redis. It keeps tasks in this process and measures time by
trio's clock, so that under `terzetto.testing.virtual_clock` retries, schedules
and retentions take no time at all.
"""

from terzetto.tasks._memory_broker import MemoryBroker

__all__ = ["MemoryBroker"]
