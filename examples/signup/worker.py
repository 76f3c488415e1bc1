"""A worker process of the shop: it joins the pool and sends the mails it is given.

Run by `fleet.py` as ``python -m examples.signup.worker URL MAILBOX NAME``. It
ends when its standard input ends, so that it never outlives the shop: a close,
a crash and a kill of the shop all look the same from here.
"""

import sys
from functools import partial
from pathlib import Path

import attrs
import trio

import terzetto
from examples.signup.mailbox import Mail, Mailbox
from examples.signup.records import sign_up_codec
from examples.signup.settings import (
    ACK_GRACE_PERIOD,
    FLAGS,
    MAIL_QUEUE_LIMIT,
    MAILS,
    POOL,
    SENDING_TIME,
    WORDING,
    WORKER_TTL,
)
from terzetto import pool, rmap, streaming


@attrs.frozen(kw_only=True)
class Postman:
    """Sends one mail a job, in the words that the feature flag asks for at that moment."""

    name: str
    mailbox: Mailbox
    flags: rmap.Map
    mails: streaming.Stream

    async def send(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        """Handle the job `email:<id>`: its payload is the sign-up.

        The shop learns of a start and of a mail through a stream. Should this process be
        killed between the mail and the end of the job, another sends the mail again: at
        least once is what the pool promises.
        """
        user = sign_up_codec.decode(job.payload)
        await self.mails.add("mail.started", job.key.encode(), topic=self.name)
        task_status.started()
        await trio.sleep(SENDING_TIME)
        words = "Welcome aboard" if self.flags.get(WORDING) == "new" else "Thank you for signing up"
        self.mailbox.append(
            Mail(user=user.id, to=user.email, subject=f"{words}, {user.name}!", worker=self.name)
        )
        await self.mails.add("mail.sent", job.key.encode(), topic=self.name)


async def work(url: str, mailbox: Path, name: str) -> None:
    """Serve the pool until standard input ends, then hand over what is not done."""
    async with (
        terzetto.connect(url) as redis,
        rmap.join(FLAGS, redis) as flags,
        pool.open_node(
            POOL,
            redis,
            worker_ttl=WORKER_TTL,
            ack_grace_period=ACK_GRACE_PERIOD,
            max_queued_jobs=MAIL_QUEUE_LIMIT,
        ) as node,
    ):
        mails = streaming.Stream(MAILS, redis)
        await node.add_worker(
            Postman(name=name, mailbox=Mailbox(mailbox), flags=flags, mails=mails).send
        )
        print("ready", flush=True)
        async with trio.lowlevel.FdStream(sys.stdin.fileno()) as shop:
            async for _ in shop:
                pass


if __name__ == "__main__":
    trio.run(partial(work, sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
