"""The documentation keeps up: promises point to tests that exist, commands are what CI runs."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from terzetto.actor import open_tree, render

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_TEST_LINK = re.compile(r"\[`(tests/[^`:]+)((?:::\w+)*)`\]\(([^)]*)\)")
_SHELL_BLOCK = re.compile(r"^```(?:console|shell|sh|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SET_UP = "python3 -m venv .venv && .venv/bin/python -m pip install --quiet nox && "


def list_test_names(path: Path) -> set[str]:
    """Return ``name`` and ``Class::name`` of what is defined in the test file at `path`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.update(
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            )
        elif isinstance(node, ast.Assign):  # a state machine's test: TestX = Machine.TestCase
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def find_broken_links(page: str) -> list[str]:
    """Return the links of a `page` to tests that do not exist, or that lead elsewhere."""
    broken: list[str] = []
    for file, test, target in _TEST_LINK.findall(page):
        path = ROOT / file
        leads_there = target.partition("#")[0].endswith(file)
        known = path.is_file() and (not test or test.removeprefix("::") in list_test_names(path))
        if not (leads_there and known):
            broken.append(f"{file}{test} -> {target}")
    return broken


def list_shell_blocks(text: str) -> list[str]:
    """Return what stands in the shell blocks of the Markdown `text`."""
    return [block.strip() for block in _SHELL_BLOCK.findall(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_link_to_a_test_leads_to_one_that_exists(page: Path) -> None:
    assert find_broken_links(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "link",
    [
        "[`tests/tooling/test_docs.py::test_missing`](../tests/tooling/test_docs.py)",
        "[`tests/no_such_file.py`](../tests/no_such_file.py)",
        "[`tests/tooling/test_docs.py`](../tests/tooling/test_bench.py)",
    ],
)
def test_a_link_that_leads_nowhere_is_seen(link: str) -> None:
    assert len(find_broken_links(f"It never loses any ({link}).")) == 1


def list_promises(page: str) -> list[str]:
    """Return the list items of `page`, but for those under a line that says "not promised"."""
    kept = re.sub(r"^.*\bnot promised\b.*:\n(?:(?!#).*\n)*", "", page, flags=re.MULTILINE)
    return [item for item in re.split(r"\n(?=[-*#] )", kept) if item.startswith(("- ", "* "))]


def test_every_promise_is_linked_to_a_test() -> None:
    promises = list_promises((ROOT / "docs" / "semantics.md").read_text(encoding="utf-8"))

    assert promises
    assert [promise for promise in promises if not _TEST_LINK.search(promise)] == []


def test_what_is_not_promised_needs_no_test() -> None:
    page = "## Maps\n\n- One.\n- Two,\n  too.\n\nThis is not promised:\n\n- Three.\n\n"
    page += "## Pool\n\n- Four.\n"

    assert [item.split()[1] for item in list_promises(page)] == ["One.", "Two,", "Four."]


def test_the_readme_opens_with_the_two_commands_and_the_contributors_third() -> None:
    first, second, third = list_shell_blocks((ROOT / "README.md").read_text(encoding="utf-8"))[:3]

    assert first == f"{_SET_UP}.venv/bin/nox -s demo"
    assert second == f"{_SET_UP}.venv/bin/nox -s tests"
    assert third == ".venv/bin/nox -s lint types docs examples"


def test_ci_runs_the_second_and_the_third_command_of_the_readme() -> None:
    _, second, third = list_shell_blocks((ROOT / "README.md").read_text(encoding="utf-8"))[:3]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == [second, third]


PROGRAMS = [
    pytest.param(program, id=f"{page.parent.name}-{page.stem}-{number}")
    for page in PAGES
    if page.parent.name in {"tutorial", "howto"}
    for number, program in enumerate(_PROGRAM.findall(page.read_text(encoding="utf-8")), 1)
    if "import trio\n" in program and "trio.run(main)\n" in program
]
"""The whole programs of tutorial and how-tos; other blocks are parts that a reader adds to them."""


def test_each_chapter_of_the_tutorial_has_a_whole_program() -> None:
    chapters = {str(each.id).rpartition("-")[0] for each in PROGRAMS}
    pages = {f"tutorial-{page.stem}" for page in (ROOT / "docs" / "tutorial").glob("*.md")}
    assert pages <= chapters


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_does_not_run_the_program_when_it_is_imported(page: Path) -> None:
    lines = "".join(_PROGRAM.findall(page.read_text(encoding="utf-8"))).splitlines()

    assert [line for line in lines if re.match(r"(sys\.exit\()?trio\.run\(", line)] == []


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_whole_program_of_a_page_runs_as_written(program: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(program)

    with trio.fail_after(50):
        done = await trio.run_process(
            [sys.executable, path],
            capture_stdout=True,
            start_new_session=True,  # Python's own process for spawned ones ends after it
        )

    assert done.stdout  # each of them shows something


async def test_the_chapter_on_actors_read_in_order_ends_in_the_tree_that_it_draws() -> None:
    page = (ROOT / "docs" / "tutorial" / "1-actors.md").read_text(encoding="utf-8")
    [drawn] = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "chapter"}
    for block in _PROGRAM.findall(page):
        if "def " in block or "await " not in block:  # else it is a part of a function
            exec(block, names)  # noqa: S102 - our own page

    async with open_tree(names["tree"]) as top:
        assert render(top) == drawn.rstrip()
        assert await top.get("counter", names["Counter"]).ask(names["Counter"].add, 2) == 2
        assert names["visits"].total == 2


async def test_the_test_of_the_how_to_runs_in_a_project_as_it_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "actors-testing.md").read_text(encoding="utf-8")
    [settings] = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [test] = _PROGRAM.findall(page)
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "test_counter.py").write_text(test)

    with trio.fail_after(50):
        done = await trio.run_process(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            capture_stdout=True,
            check=False,
        )

    assert b"1 passed" in done.stdout


async def test_the_first_program_of_the_readme_runs(tmp_path: Path) -> None:
    path = tmp_path / "first.py"
    path.write_text(_PROGRAM.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0])

    with trio.fail_after(50):
        done = await trio.run_process([sys.executable, path], capture_stdout=True)

    assert done.stdout == b"language: en\nuser.created Ada\nuser:1: hello, Ada!\n"
