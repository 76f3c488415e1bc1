"""Lua scripts: found by name beside the code that uses them, run by their digest.

A script is sent whole once and by its SHA-1 from then on; a server that does
not know it (a fresh one, a new master, SCRIPT FLUSH) answers NOSCRIPT and gets
it whole again. `Redis.run_script` does that.
"""

import hashlib
from importlib.resources import files

import attrs


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
