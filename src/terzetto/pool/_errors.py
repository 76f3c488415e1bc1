"""The errors of a pool.

Those that a caller of `dispatch` meets say what became of the job: it was
refused before anything was written, it failed to start, or nobody can tell yet.
"""

import re

from terzetto._shared._texts import describe_error
from terzetto.errors import TerzettoError

_TYPE_AND_TEXT = re.compile(r"((?:[A-Za-z_]\w*\.)*[A-Z]\w*): (.*)", re.DOTALL)


class JobStartError(TerzettoError):
    """The handler refused or failed to start the job, in whatever process it runs.

    Attributes:
        type_name: the name of the exception's type there; ``""`` when the
            worker is of another language or did not say.
        text: what the exception said.
    """

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(type_name, text)
        self.type_name = type_name
        self.text = text

    def __str__(self) -> str:
        what = f"{self.type_name}: {self.text}" if self.type_name else self.text
        return f"the job did not start: {what}"

    @classmethod
    def from_wire(cls, error: str) -> "JobStartError":
        """Read the text of an ack; its start names a Python exception or it does not."""
        match = _TYPE_AND_TEXT.fullmatch(error)
        if match is None:
            return cls("", error)
        return cls(match[1], match[2])


class JobExistsError(TerzettoError):
    """The key runs already or is being started; stop that job first, or leave it be."""


class PoolFullError(TerzettoError):
    """As many jobs wait to be started as the pool takes; add workers or try again later."""


class PoolShutdownError(TerzettoError):
    """The pool is being shut down: it takes no new node until that is done."""


class DispatchUnknownError(TerzettoError):
    """Nobody has said in time whether the job has started.

    It may be running, wait for a worker, or have failed. Dispatching the key
    again is safe: `JobExistsError` then says that it runs.
    """


class JobRetryError(TerzettoError):
    """Raised by a handler's start: not here, not now; the pool starts the job again later.

    The dispatcher is not answered by this start.
    """


class ScheduleStoppedError(TerzettoError):
    """The plan of a schedule ends it with its first call."""


class UnknownLetterError(TerzettoError, KeyError):
    """There is no dead letter of that key."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class MalformedBodyError(TerzettoError, ValueError):
    """Bytes from a pool's stream are not what the wire says they are."""


def error_text(error: BaseException) -> str:
    """Return what an ack carries for `error`: its type's name and its text, never empty.

    The text of a group names its members. `JobStartError.from_wire` reads it.
    """
    text = describe_error(error).encode("utf-8", "replace").decode()
    name = type(error).__name__
    return f"{name}: " if text == name else text
