"""Functions that compute, in threads and in processes, and processes that die."""

import os
import signal
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
import trio

from terzetto.redis import Redis
from terzetto.server import EmbeddedServer
from terzetto.tasks import Router, TaskState
from terzetto.tasks._broker_values import CancelRequest
from terzetto.tasks._redis_broker import RedisBroker
from terzetto.testing import open_program
from tests.tasks.conftest import AnyBroker
from tests.tasks.serving import put, reaches, serving, task, until_true


@pytest.fixture(scope="module", autouse=True)
def _process_of_pythons_own() -> None:
    """Start the process that Python keeps beside those that it spawns, until its own end."""
    resource_tracker.ensure_running()


def who(payload: bytes) -> bytes:
    return b"%d %s" % (os.getpid(), payload)


def hang(payload: bytes) -> None:
    Path(payload.decode()).write_text(str(os.getpid()))
    while True:
        time.sleep(60)  # until its process is killed


def fail(payload: bytes) -> None:
    raise ValueError(payload.decode())


async def test_functions_compute_in_threads_and_processes(
    place: AnyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router()
    router.handle("thread", who, run_in="thread")
    router.handle("process", who, run_in="process")
    router.handle("fail", fail, run_in="process")
    ids = await put(
        place,
        task("thread", b"a", retention=60),
        task("process", b"b", retention=60),
        task("fail", b"no"),
    )
    async with serving(place, router):
        thread = await reaches(place, ids[0], TaskState.COMPLETED)
        process = await reaches(place, ids[1], TaskState.COMPLETED)
        failed = await reaches(place, ids[2], TaskState.RETRY)
    assert thread is not None
    assert thread.result == who(b"a")
    assert process is not None
    assert process.result is not None
    assert process.result.endswith(b" b")
    assert process.result != who(b"b")
    assert failed is not None
    assert failed.message.error == "ValueError: no"
    caplog.clear()  # an error that is kept keeps the pipes to its process open


async def test_cancelling_kills_the_process_of_a_function(place: AnyBroker, tmp_path: Path) -> None:
    router, note = Router(), tmp_path / "pid"
    router.handle("process", hang, run_in="process")
    (task_id,) = await put(place, task("process", str(note).encode()))
    async with serving(place, router):
        await until_true(lambda: note.exists() and note.read_text())
        await place.send_cancel(CancelRequest(task_id=task_id))
        await reaches(place, task_id, TaskState.RETRY)
        await until_true(lambda: _is_gone(note.read_text()))


def _is_gone(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    return False


def kill_itself(payload: bytes) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_function_whose_process_dies_is_tried_again_and_told_how_it_died(
    place: AnyBroker, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router()
    router.handle("die", kill_itself, run_in="process")
    router.handle("process", who, run_in="process")
    (died,) = await put(place, task("die"))
    async with serving(place, router):
        failed = await reaches(place, died, TaskState.RETRY)
        (task_id,) = await put(place, task("process"))
        await reaches(place, task_id, None)
    assert failed is not None
    assert failed.message.error == (
        "FunctionProcessError: the process of the function was ended by signal 9"
    )
    caplog.clear()  # as above


UNGUARDED = """
import sys
import trio
from terzetto.redis import connect
from terzetto.tasks import Router, open_server

router = Router()

@router.task("x", run_in="process")
def work(payload: bytes) -> bytes:
    return payload

async def main() -> None:
    async with connect(sys.argv[1]) as redis, open_server(redis) as server:
        await server.run(router)

trio.run(main)
"""


async def test_a_main_module_without_a_guard_makes_no_second_server_and_the_task_says_so(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    """The process for the function runs the program once more; a server in it would stay."""
    source, broker = tmp_path / "unguarded.py", RedisBroker(redis)
    source.write_text(UNGUARDED)
    (task_id,) = await put(broker, task())
    async with open_program(source, server.url):
        failed = await reaches(broker, task_id, TaskState.RETRY)
        assert len(await broker.list_servers()) == 1
    assert failed is not None
    assert failed.message.error.startswith("FunctionProcessError: the process of the function")
    assert "if __name__ == '__main__':" in failed.message.error


async def test_cancelling_abandons_the_thread_of_a_function(place: AnyBroker) -> None:
    router, running, release = Router(), trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def wait(payload: bytes) -> None:
        token.run_sync_soon(running.set)
        release.wait(30)

    router.handle("thread", wait, run_in="thread")
    (task_id,) = await put(place, task("thread"))
    try:
        async with serving(place, router):
            await running.wait()
            await place.send_cancel(CancelRequest(task_id=task_id))
            await reaches(place, task_id, TaskState.RETRY)
    finally:
        release.set()
