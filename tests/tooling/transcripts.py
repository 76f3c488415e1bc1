"""Run the examples and compare what they print; `nox -s examples` runs this as a program.

An example declares itself runnable by a transcript beside it: `rate.out` for
`rate.py`, `__main__.out` for a package's `__main__.py`. A transcript is what a
terminal would show::

    $ python -m examples.actors.rate --limit 3
    served 3 of ... requests
    ...
    done
    [exit 1]

A line that opens with ``$ python`` is a command, run in the repository's root;
what follows is the standard output it must print. ``...`` on a line of its own
stands for any number of lines, elsewhere for any text within its line. An exit
code other than 0 stands in the last line as ``[exit N]``. Standard error is
free, and shown when something does not match. Each command gets an empty
temporary directory, and must leave it empty.

A program in `examples/` without a transcript is a fault, unless it belongs to a
package that has a `__main__.py`: that one shows it.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

TIME_LIMIT = 180.0  # seconds for one command; a slow machine, not a slow example
EXAMPLES = Path("examples")

_EXIT = re.compile(r"\[exit (\d+)\]")


class Step(NamedTuple):
    """One command of a transcript, the lines it must print, and its exit code."""

    command: str
    expected: str
    exit_code: int


def parse_transcript(text: str) -> list[Step]:
    """Return the commands of a transcript; raise `ValueError` if it does not open with one."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ python")]
    if starts[:1] != [0]:
        raise ValueError("a transcript opens with a line `$ python ...`")
    steps: list[Step] = []
    for start, end in pairwise([*starts, len(lines)]):
        found = _EXIT.fullmatch(lines[end - 1])
        printed = lines[start + 1 : end - 1 if found else end]
        steps.append(
            Step(
                command=lines[start].removeprefix("$ "),
                expected="".join(f"{line}\n" for line in printed),
                exit_code=int(found[1]) if found else 0,
            )
        )
    return steps


def matches(expected: str, printed: str) -> bool:
    """Return whether `printed` is what `expected` describes, ``...`` standing for anything."""
    pattern = ""
    for line in expected.splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.split("...")) + r"\n"
    return re.fullmatch(pattern, printed) is not None


def run_step(step: Step, environment: Mapping[str, str]) -> str:
    """Run one command; return what is wrong with it, or ``""``."""
    program, *arguments = shlex.split(step.command)
    with (
        tempfile.TemporaryDirectory(prefix="tz-") as scratch,
        subprocess.Popen(
            [sys.executable if program == "python" else program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**environment, "TMPDIR": scratch},
            start_new_session=True,
        ) as process,
    ):
        try:
            printed, complaints = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            return f"still running after {TIME_LIMIT:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        left = sorted(path.name for path in Path(scratch).iterdir())
    if process.returncode != step.exit_code:
        wrong = f"exit code {process.returncode} instead of {step.exit_code}\n{printed}"
    elif not matches(step.expected, printed):
        wrong = "\n".join(
            unified_diff(
                step.expected.splitlines(), printed.splitlines(), "expected", "printed", lineterm=""
            )
        )
    elif left:
        wrong = f"left behind in its temporary directory: {', '.join(left)}"
    else:
        return ""
    return f"{wrong}\n{complaints}".rstrip()


def list_silent_programs(top: Path) -> Iterator[Path]:
    """Yield the programs under `top` that should have a transcript and have none."""
    for path in sorted(top.rglob("*.py")):
        is_main = path.name == "__main__.py"
        if not is_main and (path.parent / "__main__.py").exists():
            continue
        runnable = is_main or '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        if runnable and not path.with_suffix(".out").exists():
            yield path


def main(names: list[str]) -> int:
    """Run the transcripts whose path contains one of `names`, all without; return 1 on a fault."""
    faults = 0
    for path in list_silent_programs(EXAMPLES):
        faults += 1
        print(f"{path}: a program without a transcript: add {path.with_suffix('.out')}")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    for path in sorted(EXAMPLES.rglob("*.out")):
        if names and not any(name in str(path) for name in names):
            continue
        for step in parse_transcript(path.read_text(encoding="utf-8")):
            began = time.monotonic()
            wrong = run_step(step, environment)
            print(
                f"{'FAIL' if wrong else 'ok  '} {time.monotonic() - began:5.1f} s  {step.command}"
            )
            if wrong:
                faults += 1
                print(wrong)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
