"""The mailbox: one file that every worker process appends its mails to.

A mail is one line of JSON, written by a single append, so that processes need
no lock and a process that is killed leaves a whole line or none.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import attrs

from terzetto.codec import json_codec


@attrs.frozen(kw_only=True)
class Mail:
    """One mail that was sent."""

    user: str
    to: str
    subject: str
    worker: str


mail_codec = json_codec(Mail)


@attrs.frozen
class Mailbox:
    """The file at `path`."""

    path: Path

    def clear(self) -> None:
        """Begin with an empty file; a new one only its owner may read."""
        self.path.touch(mode=0o600)
        self.path.write_bytes(b"")

    def append(self, mail: Mail) -> None:
        """Write `mail` at the end of the file."""
        line = mail_codec.encode(mail) + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def read(self) -> Sequence[Mail]:
        """Return all mails, in the order in which they were written."""
        return [mail_codec.decode(line) for line in self.path.read_bytes().splitlines()]
