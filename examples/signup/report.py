"""What the shop shows: a progress bar on the way, a table at the end."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.signup.mailbox import Mail
from examples.signup.records import Intake, SignUp
from examples.signup.shop import Outcome


def progress_bar(console: Console) -> Progress:
    """Return the bar that counts users with a mail."""
    return Progress(
        TextColumn("users with a mail"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _parts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items()))


def table(
    intake: Intake, sign_ups: Sequence[SignUp], mails: Sequence[Mail], done: Outcome
) -> Table:
    """Return the table of everything that was counted."""
    tally = done.tally
    rows = Table("what", "how many", "of which", title="Sign-ups", title_justify="left")
    rows.add_row("lines read", f"{intake.lines_read:,}", "")
    rows.add_row("refused", f"{intake.refused.total():,}", _parts(intake.refused))
    rows.add_row("events on the stream", f"{done.events:,}", "")
    rows.add_row(
        "counted by the reader",
        f"{tally.counted.total():,}",
        f"{len(tally.counted)} countries",
    )
    rows.add_row("audited by the sinks", f"{tally.audited.total():,}", _parts(tally.audited))
    rows.add_row(
        "mails sent", f"{len(mails):,}", _parts(Counter(f"by {mail.worker}" for mail in mails))
    )
    rows.add_row("digests written", f"{done.digests:,}", "a job for each country")
    wordings = Counter(mail.subject.split(",")[0] for mail in mails)
    rows.add_row("wordings", f"{len(wordings)}", _parts(wordings))
    rows.add_row("moved jobs", f"{done.moved:,}", "started by more than one worker")
    duplicates = len(mails) - len({mail.user for mail in mails})
    rows.add_row("duplicate mails", f"{duplicates:,}", "at least once is the promise")
    rows.add_row("events a second", f"{len(sign_ups) / done.seconds_adding:,.0f}", "")
    rows.add_row("mails a second", f"{len(mails) / done.seconds:,.0f}", "")
    return rows


def missing(sign_ups: Sequence[SignUp], mails: Sequence[Mail]) -> Sequence[SignUp]:
    """Return who signed up and has no mail."""
    written_to = {mail.user for mail in mails}
    return [sign_up for sign_up in sign_ups if sign_up.id not in written_to]
