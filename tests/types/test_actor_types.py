"""What must not type-check does not, in mypy and in pyright, and each for its own reason."""

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HEAD = """
from collections.abc import AsyncIterator
import attrs
from terzetto.actor import Actor, Child, Context, Ref, Supervisor, Tree, as_channel, feed
from terzetto.testing import Probe, inject


@attrs.define
class Counter(Actor):
    total: int = 0
    ctx: Context["Counter"] | None = None

    async def add(self, n: int, *, times: int = 1) -> int:
        return n * times

    def plain(self, n: int) -> int:
        return n


@attrs.define
class Other(Actor):
    async def go(self) -> str:
        return ""


async def check(
    ref: Ref[Counter], ctx: Context[Counter], top: Supervisor, probe: Ref[Probe]
) -> None:
"""

TAIL = """

def other_face(ref: Ref[Other]) -> str:
    return ref.name


async def strings() -> AsyncIterator[str]:
    yield "a"
"""

# Each line is wrong in one way; every checker must name it.
WRONG = {
    "an argument of another type": "await ref.tell(Counter.add, 'a')",
    "a missing argument": "await ref.tell(Counter.add)",
    "one argument too many": "await ref.ask(Counter.add, 1, 2)",
    "an unknown keyword": "ref.tell_nowait(Counter.add, 1, often=2)",
    "a message of another actor": "await ref.ask(Other.go)",
    "a reply of another type": "reply: str = await ref.ask(Counter.add, 1)",
    "a method that is not async": "await ref.ask(Counter.plain, 1)",
    "a name instead of a method": "await ref.tell('add', 1)",
    "a timer with wrong arguments": "ctx.after(1.0, Counter.add, 'a')",
    "a timer of another actor": "ctx.every(1.0, Other.go)",
    "a ref of another actor": "other: Ref[Other] = ref",
    "a child of another face": "child: Child[int] = Child(Counter, face=str)",
    "a face of another actor": "wrong: Child[str] = Child(Counter, face=other_face)",
    "a factory that makes no actor": "Child(int)",
    "an unknown strategy": "Tree(strategy='all_for_one')",
    "an unknown restart": "Child(Counter, restart='always')",
    "a channel of another type": "await as_channel(ref, Counter.add).send('a')",
    "a look-up of another actor": "found: Ref[Other] = top.get('a', Counter)",
    "a look-up of another face": "face: str = top.get('a', int)",
    "a feed of another type": "await feed(ref, Counter.add, strings())",
    "an unknown rule of shutdown": "Tree(auto_shutdown='some')",
    "a stranger among the children": "Tree(children=(Counter,))",
    "an observer of two arguments": "top.observe(lambda event, more: None)",
    "a reply taken from a tell": "reply: int = await ref.tell(Counter.add, 1)",
    "a probe of another actor": "await probe.ask(Counter.add, 1)",
    "a plan that is none": "inject(Counter, 3)",
    "options beside a spec": "await ctx.spawn(Child(Counter), name='x')",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """Return the wrong program, and what is wrong in which of its lines."""
    text = HEAD
    lines: dict[int, str] = {}
    for what, line in WRONG.items():
        lines[text.count("\n") + 1] = what
        text += f"    {line}\n"
    text += TAIL
    path = tmp_path_factory.mktemp("types") / "wrong.py"
    path.write_text(text)
    return path, lines


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - our own tools


def tool(name: str) -> str:
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        pytest.skip(f"{name} is not installed here")
    return str(path)


@pytest.mark.timeout(300)
def test_mypy_refuses_every_wrong_line(program: tuple[Path, dict[int, str]]) -> None:
    path, wrong = program
    tool("mypy")
    output = run(sys.executable, "-m", "mypy", "--strict", f"--cache-dir={path.parent}", str(path))
    found = {int(number) for number in re.findall(r"wrong\.py:(\d+): error", output)}
    assert found == set(wrong), f"{[wrong.get(n) for n in found ^ set(wrong)]}\n{output}"


@pytest.mark.timeout(300)
def test_pyright_refuses_every_wrong_line(program: tuple[Path, dict[int, str]]) -> None:
    path, wrong = program
    output = run(tool("basedpyright"), "--outputjson", "--pythonpath", sys.executable, str(path))
    report = json.loads(output)["generalDiagnostics"]
    found = {
        item["range"]["start"]["line"] + 1
        for item in report
        if item["severity"] == "error" and item["rule"] != "reportUnusedVariable"
    }
    assert found >= set(wrong), f"{[wrong.get(n) for n in set(wrong) - found]}\n{output}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", ["terzetto.actor", "terzetto.testing"])
def test_every_type_that_a_user_meets_is_known(module: str) -> None:
    output = run(
        tool("basedpyright"),
        "--verifytypes",
        module,
        "--ignoreexternal",
        "--pythonpath",
        sys.executable,
    )
    assert "Type completeness score: 100%" in output, output
