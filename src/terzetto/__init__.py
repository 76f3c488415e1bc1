"""Event streams, worker pools, replicated maps and task queues on Redis, as trio actors."""
