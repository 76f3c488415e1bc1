"""Environments of their own for peers that want other versions of what we use.

arq, celery and taskiq-redis each pin a redis-py that is not ours. An environment is
made beside the one that the bench runs in, once, and found again by what is in it.
Called by `runner.py`.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from tests.bench.harness import MissingPeerError

_OURS: Final = ("attrs", "trio")  # what a contender's own side needs
_PATIENCE: Final = 600.0  # seconds to install what a peer needs


async def find_python(requires: Sequence[str]) -> str:
    """Return a Python that has `requires`; our own if there are none.

    Raises:
        MissingPeerError: they can't be installed; the text says why.
    """
    if not requires:
        return sys.executable
    wanted = sorted([*requires, *_OURS])
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    home = Path(sys.prefix) / "bench" / digest
    python, stamp = home / "bin" / "python", trio.Path(home / "installed")
    if not await stamp.exists():
        await _run(sys.executable, "-m", "venv", "--clear", str(home))
        await _run(str(python), "-m", "pip", "install", "--quiet", *wanted)
        await stamp.write_text("\n".join(wanted))
    return str(python)


async def _run(*words: str) -> None:
    with trio.move_on_after(_PATIENCE):
        done = await trio.run_process(
            list(words), capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode == 0:
            return
        why = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        raise MissingPeerError(f"{' '.join(words[2:])}: {why}")
    raise MissingPeerError(f"{' '.join(words[2:])}: not done in {_PATIENCE:.0f} s")
