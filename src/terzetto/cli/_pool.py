"""``terzetto pool``: worker pools, their jobs and their dead letters."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import attrs
from cyclopts import App

from terzetto.cli._output import Output, Seen
from terzetto.cli._session import (
    ALL,
    Payload,
    Target,
    check_chosen,
    do_each,
    look_at_each,
    read_payload,
)
from terzetto.errors import TerzettoError
from terzetto.pool import DeadLetter, Node, PoolInfo, find_pools, look_at_pool, open_node
from terzetto.redis import Redis

app = App(name="pool", help="Worker pools: their nodes, workers, jobs and dead letters.")
dead = App(name="dead", help="Jobs that were given up.")
app.command(dead)

_HERE = Target()
POOL_COLUMNS = {
    "name": "Pool",
    "nodes": "Nodes",
    "workers": "Workers",
    "jobs": "Jobs",
    "queued": "Queued",
    "pending": "Pending",
    "dead": "Dead",
    "state": "State",
}


def count_pool(info: PoolInfo) -> dict[str, object]:
    """Return what a pool has, as counts."""
    return {
        "name": info.name,
        "nodes": len(info.nodes),
        "workers": len(info.workers),
        "jobs": info.jobs,
        "queued": info.queued,
        "pending": len(info.pending),
        "dead": len(info.dead_letters),
        "state": "shutting down" if info.is_shutting_down else "open" if info.nodes else "empty",
    }


async def count_pools(redis: Redis) -> Seen:
    """Return the counts of all pools."""

    async def look(name: str) -> dict[str, object]:
        return count_pool(await look_at_pool(name, redis))

    return await look_at_each(await find_pools(redis), look)


async def _look(name: str, redis: Redis) -> PoolInfo:
    """Return how a pool is.

    Raises:
        TerzettoError: there is none of that name; whoever joined it would make one.
    """
    info = await look_at_pool(name, redis)
    if not info.exists:
        raise TerzettoError(f"there is no pool {name!r}: its first node makes it")
    return info


@asynccontextmanager
async def _join(name: str, target: Target, *, key: str | None = None) -> AsyncGenerator[Node]:
    """Join a pool that is there, and that has the job `key`, to tell it something."""
    async with target.connect() as redis:
        info = await _look(name, redis)
        if key is not None and key not in info.keys:
            raise TerzettoError(f"pool {name!r} has no job {key!r}")
        async with open_node(name, redis, client_only=True) as node:
            yield node


@app.command(alias="list")
async def ls(*, target: Target = _HERE) -> int:
    """List the pools there are."""
    async with target.connect() as redis:
        return target.output.show_seen(POOL_COLUMNS, await count_pools(redis), "No pools")


@app.command
async def inspect(name: str, /, *, target: Target = _HERE) -> None:
    """Show a pool's nodes, workers and tickers.

    Args:
        name: The pool.
    """
    async with target.connect() as redis:
        info = await _look(name, redis)
    if target.json:
        target.output.say("", {**count_pool(info), **attrs.asdict(info)})
        return
    show = target.output
    show.show_record(POOL_COLUMNS, count_pool(info))
    for title, columns, rows in (
        ("Nodes", {"id": "Node", "silent_for": "Last Sign"}, info.nodes),
        (
            "Workers",
            {"id": "Worker", "joined_at": "Joined", "silent_for": "Last Sign", "jobs": "Jobs"},
            info.workers,
        ),
        ("Tickers", {"name": "Ticker", "due_at": "Next", "interval": "Interval"}, info.tickers),
    ):
        records = [{**attrs.asdict(row), "jobs": len(getattr(row, "jobs", ()))} for row in rows]
        print()
        show.show_table(columns, records, f"No {title.lower()}")


@app.command
async def jobs(name: str, /, *, target: Target = _HERE) -> None:
    """List a pool's jobs, and which worker has each.

    Args:
        name: The pool.
    """
    async with target.connect() as redis:
        info = await _look(name, redis)
    rows = [
        {"key": key, "worker": worker.id, "state": "running"}
        for worker in info.workers
        for key in worker.jobs
    ]
    rows += [{"key": key, "worker": "", "state": "unowned"} for key in info.unowned]
    rows.sort(key=lambda row: row["key"])
    target.output.show_table(
        {"key": "Key", "worker": "Worker", "state": "State"}, rows, f'No jobs in pool "{name}"'
    )


@app.command
async def dispatch(
    name: str, key: str, payload: Payload = "", /, *, target: Target = _HERE
) -> None:
    """Start a job; returns once it has started.

    Args:
        name: The pool.
        key: What the job is called.
        payload: What it is given; - reads standard input.
    """
    data = await read_payload(payload)
    async with _join(name, target) as node:
        if not node.pool_workers:
            raise TerzettoError(f"pool {name!r} has no worker: nobody would start the job")
        await node.dispatch(key, data)
    target.output.say(f"Job {key} has started", {"pool": name, "key": key, "started": True})


@app.command
async def stop(name: str, key: str, /, *, target: Target = _HERE) -> None:
    """Stop a job, whoever runs it.

    Args:
        name: The pool.
        key: The job.
    """
    async with _join(name, target, key=key) as node:
        await node.stop_job(key)
    target.output.say(f"Asked for the end of job {key}", {"pool": name, "key": key, "asked": True})


@app.command
async def notify(name: str, key: str, payload: Payload, /, *, target: Target = _HERE) -> None:
    """Send a notification to a job.

    Args:
        name: The pool.
        key: The job.
        payload: What it is told; - reads standard input.
    """
    data = await read_payload(payload)
    async with _join(name, target, key=key) as node:
        await node.notify(key, data)
    target.output.say(f"Sent to job {key}", {"pool": name, "key": key, "sent": True})


@app.command
async def shutdown(name: str, /, *, target: Target = _HERE) -> None:
    """Stop every job of a pool and close all its nodes.

    Args:
        name: The pool.
    """
    async with target.connect() as redis:
        await _look(name, redis)
        async with open_node(name, redis) as node:
            await node.shutdown()
    target.output.say(f"Pool {name} is shut down", {"pool": name, "shut_down": True})


@dead.command(name="ls", alias="list")
async def ls_dead(name: str, /, *, target: Target = _HERE) -> None:
    """List the jobs that a pool has given up.

    Args:
        name: The pool.
    """
    async with target.connect() as redis:
        letters = (await _look(name, redis)).dead_letters
    _show_letters(target.output, name, letters)


@dead.command
async def retry(
    name: str, /, *keys: str, all_: Annotated[bool, ALL] = False, target: Target = _HERE
) -> int:
    """Start jobs again that were given up; their letters go once they have started.

    Args:
        name: The pool.
        keys: The jobs.
        all_: All that there are.
    """
    check_chosen(keys, everything=all_)
    async with _join(name, target) as node:
        wanted = [letter.key for letter in await node.dead_letters()] if all_ else keys

        async def start(key: str) -> None:
            await node.retry_dead_letter(key)
            target.output.tell(f"Job {key} has started again", {"pool": name, "key": key})

        return await do_each(wanted, start)


@dead.command
async def discard(
    name: str, /, *keys: str, all_: Annotated[bool, ALL] = False, target: Target = _HERE
) -> int:
    """Forget jobs that were given up.

    Args:
        name: The pool.
        keys: The jobs.
        all_: All that there are.
    """
    check_chosen(keys, everything=all_)
    missing = 0
    async with _join(name, target) as node:
        wanted = [letter.key for letter in await node.dead_letters()] if all_ else keys
        for key in wanted:
            was_there = await node.discard_dead_letter(key)
            missing += not was_there
            said = "is forgotten" if was_there else "has no dead letter"
            target.output.tell(
                f"Job {key} {said}", {"pool": name, "key": key, "discarded": was_there}
            )
    return 1 if missing else 0


def _show_letters(output: Output, pool: str, letters: tuple[DeadLetter, ...]) -> None:
    output.show_table(
        {"key": "Key", "error": "Error", "created_at": "Dispatched", "payload": "Payload"},
        [attrs.asdict(letter) for letter in letters],
        f'No dead letters in pool "{pool}"',
    )
