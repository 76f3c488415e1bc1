"""Tasks of a mail service: typed payloads, retries, an error that is final, and a result.

Run it with ``python -m examples.tasks.email``. The server's retry delay is short, so that
the program ends soon; by default it is at least 15 seconds.
"""

import attrs
import trio

import terzetto
from terzetto import tasks

router = tasks.Router()


@attrs.define
class Email:
    """What a task of type ``email:send`` is about."""

    to: str
    subject: str


class ServerBusyError(Exception):
    """The mail server has no time; it is worth another try."""


@router.task("email:send")
async def send(email: Email, ctx: tasks.TaskContext) -> str:
    """Send a mail; the text that is returned becomes the task's result."""
    await trio.lowlevel.checkpoint()
    if "@" not in email.to:
        raise tasks.SkipRetry(f"{email.to!r} is no address")
    if ctx.retried < 2:
        raise ServerBusyError(f"attempt {ctx.retried + 1}")
    return f"sent to {email.to} in attempt {ctx.retried + 1}"


def soon(retried: int, error: BaseException, task: tasks.TaskMessage) -> float:
    """Wait a little longer each time."""
    del error, task  # it is all the same which
    return 0.1 * (retried + 1)


async def tell(ctx: tasks.TaskContext, error: BaseException) -> None:
    """Print what went wrong; a service would tell its error tracker."""
    await trio.lowlevel.checkpoint()
    print(f"{ctx.type} failed: {error}")


async def main() -> None:
    """Send one mail that arrives, and one that cannot."""
    async with (
        terzetto.connect("embedded://") as redis,
        tasks.open_server(redis, retry_delay=soon, error_handler=tell) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(server.run, router)
        client = tasks.Client(redis)

        good = tasks.Task("email:send", {"to": "ann@example.org", "subject": "Hello"})
        handle = await client.enqueue(good, retention=3600)
        print((await handle.result() or b"").decode())

        bad = tasks.Task("email:send", {"to": "nobody", "subject": "Hello"})
        handle = await client.enqueue(bad)
        try:
            await handle.result()
        except tasks.TaskFailedError as error:
            print(error)

        await server.shutdown()
        print(server.statistics().succeeded, "done,", server.statistics().archived, "given up")


if __name__ == "__main__":
    trio.run(main)
