"""The errors of the link to Redis.

All derive from `TerzettoError` and, where redis-py has a kin, from redis-py's
error too, so that code written for redis-py goes on working. Error replies of
the server are redis-py's own classes (`redis.exceptions.ResponseError` and its
children) and are not repeated here. No text here may hold a secret.
"""

from redis.exceptions import AuthenticationError, InvalidResponse, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from terzetto.errors import ClosedError, InvalidOptionError, TerzettoError


class UrlError(InvalidOptionError):
    """The URL is missing, has an unknown scheme, or has a part that cannot be understood."""


class TextInRepr:
    """Gives errors the usual repr; redis-py's leaves out the text."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class LinkError(TextInRepr, TerzettoError, RedisConnectionError):
    """Something is wrong between this process and the server, not with a command."""


class ConnectError(LinkError):
    """The server cannot be reached, or refuses the link; the cause is chained."""


class AuthError(ConnectError, AuthenticationError):
    """The server refuses the user name or password, or wants one and got none."""


class LinkLostError(LinkError):
    """The link was lost before the reply came; the cause, where it is known, is what ended it.

    Attributes:
        may_have_run: True if the command had been written, so that the server
            may have carried it out; read back before sending it again. False if
            it certainly was not carried out.
    """

    def __init__(self, text: str, *, may_have_run: bool) -> None:
        super().__init__(text)  # pyright: ignore[reportUnknownMemberType] - redis-py leaves it untyped
        self.may_have_run = may_have_run


class LinkClosedError(TextInRepr, ClosedError, RedisConnectionError):
    """The block of the client, or of the link, has been left; nothing was sent."""


class WrongLinkError(TextInRepr, TerzettoError, RedisError):
    """The command would disturb the callers who share the link; the text names the right way."""


class ReplyError(LinkError, InvalidResponse):
    """The server sent bytes that are no reply, or a reply beyond the limit; the link was closed."""


class ReplyTooLongError(ReplyError):
    """A reply is beyond `max_reply_bytes`: ask for less, or raise the limit.

    Raised by single commands that only read, and never on dedicated links. Else it is the
    cause of `LinkLostError`, for the command has run.
    """
