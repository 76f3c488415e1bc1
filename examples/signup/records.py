"""Sign-ups as they come in: one JSON object a line, some of them no use.

Pure: reading and checking only. `shop.py` takes what is good from here and
counts what was refused, with the reason.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import attrs

from terzetto.codec import json_codec
from terzetto.errors import InvalidPayloadError

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_COUNTRY = re.compile(r"[a-z]{2}")


@attrs.frozen(kw_only=True)
class SignUp:
    """One person who signed up."""

    id: str
    email: str
    name: str
    country: str


sign_up_codec = json_codec(SignUp)
"""How a sign-up travels: in an event's payload and in a job's."""


class RefusedError(Exception):
    """A line is no sign-up that the shop can use; the text is the reason."""


@attrs.define
class Intake:
    """Reads lines one by one, remembers who was seen, and counts what it refuses."""

    lines_read: int = 0
    refused: Counter[str] = attrs.field(factory=Counter[str])
    _ids: set[str] = attrs.field(factory=set[str])
    _emails: set[str] = attrs.field(factory=set[str])

    def accept(self, lines: Iterable[bytes]) -> Iterator[SignUp]:
        """Yield the sign-ups among `lines` (each the bytes of one line) that are good and new."""
        for line in lines:
            self.lines_read += 1
            try:
                yield self._check(line)
            except RefusedError as reason:
                self.refused[str(reason)] += 1

    def _check(self, line: bytes) -> SignUp:
        try:
            sign_up = sign_up_codec.decode(line)
        except InvalidPayloadError as error:
            raise RefusedError("not the JSON of a sign-up") from error
        if not _ID.fullmatch(sign_up.id):
            raise RefusedError("an id that cannot be used")
        if not _EMAIL.fullmatch(sign_up.email):
            raise RefusedError("no e-mail address")
        if not sign_up.name.strip():
            raise RefusedError("no name")
        if not _COUNTRY.fullmatch(sign_up.country):
            raise RefusedError("no country code")
        if sign_up.id in self._ids or sign_up.email.casefold() in self._emails:
            raise RefusedError("signed up before")
        self._ids.add(sign_up.id)
        self._emails.add(sign_up.email.casefold())
        return sign_up
