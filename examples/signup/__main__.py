"""Run the sign-up flow: ``python -m examples.signup``.

It exits with 0 if every valid sign-up has its mail, 1 if some have none (it
says whose), 2 if the input cannot be read, and 130 after Ctrl-C.
"""

import argparse
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import trio
from rich.console import Console

from examples.signup import report
from examples.signup.mailbox import Mailbox
from examples.signup.records import Intake
from examples.signup.shop import open_shop
from terzetto.server import open_embedded

SHIPPED = Path(__file__).with_name("signups.jsonl")
INTERRUPTED = 130
NO_INPUT = 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.signup", description=__doc__)
    parser.add_argument(
        "--input", default=str(SHIPPED), metavar="FILE", help="JSON lines; - is standard input"
    )
    parser.add_argument(
        "--mailbox", type=Path, metavar="FILE", help="where the mails go; it is written afresh"
    )
    parser.add_argument("--url", help="a Redis of your own, instead of the embedded server")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait when nothing moves any more (default 60)",
    )
    return parser.parse_args()


async def _run(lines: list[bytes], mailbox: Mailbox, arguments: argparse.Namespace) -> int:
    console = Console()
    intake = Intake()
    sign_ups = list(intake.accept(lines))
    async with AsyncExitStack() as stack:
        url = arguments.url or (await stack.enter_async_context(open_embedded())).url
        with report.progress_bar(console) as bar:
            users = bar.add_task("users", total=len(sign_ups))
            outcome = await open_shop(
                url,
                sign_ups,
                mailbox,
                patience=arguments.patience,
                progressed=lambda sent: bar.update(users, completed=sent),
            )
    mails = mailbox.read()
    console.print(report.table(intake, sign_ups, mails, outcome))
    without = report.missing(sign_ups, mails)
    for sign_up in without:
        failure = outcome.tally.failures.get(f"email:{sign_up.id}", "nobody sent it in time")
        console.print(f"no mail for {sign_up.id} <{sign_up.email}>: {failure}")
    console.print(
        f"{len(without)} of {len(sign_ups)} users have no mail"
        if without
        else f"Every user has a mail: {len(sign_ups)} of {len(sign_ups)}"
    )
    return 1 if without else 0


async def _run_until_interrupted(
    lines: list[bytes], mailbox: Mailbox, arguments: argparse.Namespace
) -> int:
    """Run the flow; SIGINT and SIGTERM close everything first."""
    status = INTERRUPTED

    async def watch_signals(task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals)
        status = await _run(lines, mailbox, arguments)
        nursery.cancel_scope.cancel()
    return status


def main() -> int:
    """Read the arguments and the input, run, and return the exit status."""
    arguments = _arguments()
    try:
        if arguments.input == "-":
            lines = sys.stdin.buffer.readlines()
        else:
            lines = Path(arguments.input).read_bytes().splitlines()
    except OSError as error:
        print(f"cannot read the sign-ups: {error}", file=sys.stderr)
        return NO_INPUT
    with tempfile.TemporaryDirectory(prefix="signup-") as directory:
        mailbox = Mailbox(arguments.mailbox or Path(directory) / "mailbox.jsonl")
        mailbox.clear()
        return trio.run(_run_until_interrupted, lines, mailbox, arguments)


if __name__ == "__main__":
    sys.exit(main())
