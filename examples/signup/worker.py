"""A worker process of the shop: it joins the pool, sends mails and writes digests.

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
    COUNTRIES,
    DIGESTS,
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
    """Sends one mail a job, in the words that the feature flag asks for at that moment.

    Other jobs are long: they write the digest of a country, whenever they are told to.
    """

    name: str
    mailbox: Mailbox
    flags: rmap.Map
    mails: streaming.Stream
    countries: rmap.Map
    digests: rmap.Map

    async def work(self, job: pool.Job, *, task_status: trio.TaskStatus[None]) -> None:
        """Do what the job's key asks for: ``email:<id>`` or ``digest:<country>``."""
        if job.key.startswith("email:"):
            await self.send(job, task_status=task_status)
        else:
            task_status.started()
            await self.digest(job)

    async def digest(self, job: pool.Job) -> None:
        """Write how many users a country has, at each notification, until stopped."""
        country = job.key.removeprefix("digest:")
        async for _ in job.notifications:
            await self.digests.set(country, self.countries[country])

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
        rmap.join(COUNTRIES, redis) as countries,
        rmap.join(DIGESTS, redis) as digests,
        pool.open_node(
            POOL,
            redis,
            worker_ttl=WORKER_TTL,
            ack_grace_period=ACK_GRACE_PERIOD,
            max_queued_jobs=MAIL_QUEUE_LIMIT,
        ) as node,
    ):
        postman = Postman(
            name=name,
            mailbox=Mailbox(mailbox),
            flags=flags,
            mails=streaming.Stream(MAILS, redis),
            countries=countries,
            digests=digests,
        )
        await node.add_worker(postman.work)
        print("ready", flush=True)
        async with trio.lowlevel.FdStream(sys.stdin.fileno()) as shop:
            async for _ in shop:
                pass


if __name__ == "__main__":
    trio.run(partial(work, sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
