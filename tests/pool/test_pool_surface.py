"""What users see of pools: these names and no other, so that what is the actors' own stays so."""

import pytest
import trio

from terzetto import pool
from terzetto.redis import Redis

SURFACE: dict[type, set[str]] = {
    pool.Node: {
        "add_worker",
        "close",
        "counts",
        "dead_letters",
        "discard_dead_letter",
        "dispatch",
        "dispatch_many",
        "id",
        "is_closed",
        "is_shut_down",
        "job_keys",
        "job_payload",
        "notify",
        "open_schedule",
        "open_ticker",
        "pool",
        "pool_workers",
        "retry_dead_letter",
        "shutdown",
        "stop_job",
        "watch",
        "workers",
    },
    pool.Worker: {"close", "created_at", "id", "is_closed", "jobs"},
    pool.Ticker: {"is_stopped", "name", "stop"},
    pool.Schedule: {"is_stopped", "keys", "name", "stop"},
    pool.Watch: {"lost", "next"},
    pool.Job: {"created_at", "key", "node_id", "notifications", "payload", "requeued"},
    pool.DeadLetter: {"created_at", "error", "key", "node_id", "payload"},
}


@pytest.mark.parametrize("face", SURFACE, ids=lambda face: face.__name__)
def test_a_face_shows_what_users_use_and_no_more(face: type) -> None:
    assert {name for name in dir(face) if not name.startswith("_")} == SURFACE[face]


async def test_a_node_counts_what_happens_in_it_and_knows_its_workers(redis: Redis) -> None:
    jobs: list[pool.Job] = []

    async def run(job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        jobs.append(job)
        task_status.started()
        await trio.sleep_forever()

    async with pool.open_node("p", redis) as node:
        worker = await node.add_worker(run)
        other = await node.add_worker(run)
        assert node.workers == [worker, other]
        assert node.pool_workers == [worker.id, other.id]
        await node.dispatch_many((f"job-{number}", b"") for number in range(5))
        assert len(worker.jobs) + len(other.jobs) == 5
        assert worker.created_at is not None
        assert other.created_at is not None
        assert worker.created_at < other.created_at
        assert not any(job.requeued for job in jobs)
        moving = set(other.jobs)
        await other.close()
        with trio.fail_after(30):
            while len(jobs) < 5 + len(moving):  # noqa: ASYNC110 - a state of several tasks
                await trio.sleep(0.01)
        assert {job.key for job in jobs if job.requeued} == moving
        assert len(worker.jobs) == 5
        assert other.is_closed
        assert node.workers == [worker]
        counts = node.counts
        assert counts["job_started"] >= 5
        assert counts["worker_joined"] == 2
        assert counts["worker_left"] == 1
        assert "dead_letter" not in counts


async def test_a_node_knows_that_its_pool_was_shut_down_and_that_it_was_only_closed(
    redis: Redis,
) -> None:
    async with pool.open_node("p", redis) as first, pool.open_node("p", redis) as second:
        async with pool.open_node("p", redis) as third:
            await third.close()
            assert third.is_closed
            assert not third.is_shut_down
        await first.shutdown()
        with trio.fail_after(30):
            while not second.is_closed:  # noqa: ASYNC110 - a state of another node
                await trio.sleep(0.01)
        assert first.is_shut_down
        assert second.is_shut_down
