"""Lua scripts: found by name beside the code that uses them, run by their digest.

A script is sent whole once and by its SHA-1 from then on; a server that does
not know it (a fresh one, a new master, SCRIPT FLUSH) answers NOSCRIPT and gets
it whole again. `Redis.run_script` does that.
"""

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

import attrs

from terzetto.redis._wire import Arg, pack, pack_common

_MAX_HEADS: Final = 100  # a script is called with few different numbers of arguments


@attrs.frozen
class _Head:
    """What every call of a script with so many keys and arguments opens with."""

    data: bytes
    skip: int  # bytes of the head of its keys and arguments, packed as if they were a command


@attrs.frozen
class Script:
    """A Lua script.

    Attributes:
        name: what it is called in logs and errors.
        source: the Lua text; it opens with comments that say KEYS, ARGV and what it returns.
        sha: the SHA-1 of the source in hexadecimal, by which the server knows it.
    """

    name: str
    source: str = attrs.field(repr=False)
    sha: str = attrs.field(init=False)
    _heads: dict[tuple[int, int], _Head] = attrs.field(
        init=False, factory=dict[tuple[int, int], _Head], repr=False, eq=False
    )

    def __attrs_post_init__(self) -> None:
        """Compute the digest."""
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)

    @classmethod
    def load(cls, package: str, resource: str) -> "Script":
        """Return the script in the file `resource` of `package`, as in ``("my.app", "lua/a.lua")``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        source = files(package).joinpath(resource).read_text(encoding="utf-8")
        return cls(name=f"{package}:{resource}", source=source)

    def pack_call(self, keys: Sequence[Arg], args: Sequence[Arg]) -> bytes:
        """Return the packed command that runs the script by its digest.

        Raises:
            InvalidPayloadError: a key or an argument cannot be sent.
        """
        head = self._heads.get((len(keys), len(args))) or self._head(len(keys), len(args))
        rest = (*keys, *args)
        try:
            data = pack_common(rest)
        except (TypeError, UnicodeEncodeError):
            data = pack(rest)
        return head.data + data[head.skip :]

    def _head(self, keys: int, args: int) -> _Head:
        start = pack(("EVALSHA", self.sha, keys)).partition(b"\r\n")[2]
        head = _Head(b"*%d\r\n%s" % (3 + keys + args, start), len(b"*%d\r\n" % (keys + args)))
        if len(self._heads) < _MAX_HEADS:
            self._heads[keys, args] = head
        return head


class Runner(Protocol):
    """A client, as far as a registered script needs one."""

    async def call_script(self, script: Script, keys: Sequence[Arg], args: Sequence[Arg], /) -> Any:  # noqa: ANN401 - each script has its own reply
        """Run a script, and shape its reply as redis-py's commands do."""
        ...


@attrs.frozen
class RegisteredScript:
    """A script that is called like a function; made by `Redis.register_script`.

    Attributes:
        script: the script itself.
    """

    script: Script
    _runner: Runner = attrs.field(repr=False)

    @property
    def sha(self) -> str:
        """The SHA-1 of the source in hexadecimal."""
        return self.script.sha

    async def __call__(
        self,
        keys: Sequence[Arg] = (),
        args: Iterable[Arg] = (),
        client: Runner | None = None,
    ) -> Any:  # noqa: ANN401 - each script has its own reply
        """Run it with the client that registered it, or another one; return its reply.

        Raises what `Redis.run_script` raises.
        """
        return await (client or self._runner).call_script(self.script, keys, list(args))
