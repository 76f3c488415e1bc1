"""Commands that are sent at once, from any function, and that no task waits for.

What they come to is handed to a function, in the task that reads all replies of the link: a
caller that has to know is resumed a turn of the scheduler sooner than by waiting itself, and
one that need not know goes on. The client's calls that wait are in `_client.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from terzetto.redis._commands import check_unit, shared
from terzetto.redis._link import Link
from terzetto.redis._pubsub import Hub
from terzetto.redis._script import Script
from terzetto.redis._wire import Arg, Reply, pack


class Posting(ABC):
    """The part of a client that posts."""

    _subscriptions: Hub | None

    @abstractmethod
    def _slot(self, keys: Sequence[Arg]) -> int:
        """Return where keys belong."""

    @abstractmethod
    def _slot_of(self, commands: Sequence[Sequence[Arg]]) -> int:
        """Return the one slot of all keys of `commands`."""

    @abstractmethod
    def _link_now(self, slot: int) -> Link | None:
        """Return the shared link to the owner of a slot, if it is known."""

    def post(self, *args: Arg, on_reply: Callable[[Reply], None]) -> bool:
        """Send one command at once, and have its reply handed to `on_reply`.

        That is a plain function that should not take long: it runs in the task that reads all
        replies, before messages that come with this one. It is handed errors too: the
        server's; `LinkLostError` if the connection was lost, which says whether the
        command may have run; `LinkClosedError` if the client's block was left before it was
        written. What it raises is logged as an error, with the client's `logger`, and disturbs
        nobody.

        Returns whether it was sent: not while there is no connection. It comes to its server
        before what the same task posts or calls later.

        Raises:
            WrongLinkError: the command cannot share a link.
            InvalidPayloadError: an argument cannot be sent.
        """
        data = pack(args)
        if not isinstance(args[0], str) or args[0] not in shared:
            check_unit([args])
        return self._post(data, self._slot_of([args]), on_reply)

    def post_script(
        self,
        script: Script,
        keys: Sequence[Arg],
        args: Sequence[Arg],
        on_reply: Callable[[Reply], None],
    ) -> bool:
        """Send a Lua script by its digest at once; else as `post`.

        Among the errors may be that the server does not know the script.

        Raises:
            InvalidPayloadError: a key or an argument cannot be sent.
        """
        return self._post(script.pack_call(keys, args), self._slot(keys), on_reply)

    def _post(self, data: bytes, slot: int, on_reply: Callable[[Reply], None]) -> bool:
        link = self._link_now(slot)
        if link is None:
            return False
        if self._subscriptions is not None:
            self._subscriptions.give_way()
        notice = link.notify(data)
        notice.on_reply = on_reply
        return not notice.done.is_set()
