"""Rules about the source that no linter knows; `nox -s lint` runs this as a program.

- A `.py` file has at most 500 lines, and opens with a docstring.
- A comment that silences a checker names the rule and gives a reason beside it.
- A rule that `pyproject.toml` switches off has its reason beside it.
- A Lua script opens with comments that say what KEYS and ARGV it takes and what it returns.

Each function is pure, takes a file's text and yields what is wrong with it.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_LINES = 500
ROOTS = ("src", "tests", "examples", "docs", "noxfile.py")

# A directive, its codes if it has any, and what follows on the line.
_DIRECTIVE = re.compile(
    r"#\s*(?P<kind>noqa|ruff:\s*noqa|type:\s*ignore|pyright:\s*ignore|mypy:|pyright:|fmt:\s*(?:off|skip)"
    r"|isort:\s*\w+|pragma:\s*no cover)"
    r"(?P<codes>\s*:?\s*\[[^\]]*\]|\s*:\s*[A-Z]+[0-9]+(?:\s*,?\s*[A-Z]+[0-9]+)*)?"
    r"(?P<rest>[^#]*)"
)
_NEEDS_CODES = ("noqa", "ruff", "type", "pyright: ignore")
_REASON = re.compile(r"[^\W\d_]{3,}")
_SILENCED = re.compile(r'^\s*(?:"[^"]*"\s*=\s*\[)?\s*"(?P<rule>[A-Z]+[0-9]+|[A-Z]+)"\s*,?\s*\]?')


class Fault(NamedTuple):
    """What is wrong, and where; lines count from 1."""

    line: int
    text: str


def check_length(text: str) -> Iterator[Fault]:
    """Yield a fault if `text` is longer than a file should be."""
    lines = text.count("\n")
    if lines > MAX_LINES:
        yield Fault(MAX_LINES, f"{lines} lines: a file over {MAX_LINES} lines is two files")


def check_docstring(text: str) -> Iterator[Fault]:
    """Yield a fault if the module `text` does not open with a docstring."""
    if ast.get_docstring(ast.parse(text)) is None:
        yield Fault(1, "no docstring: say what the module is for, its invariants, who calls it")


def check_comments(text: str) -> Iterator[Fault]:
    """Yield a fault for each comment that silences a checker without a code or a reason."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        found = list(_DIRECTIVE.finditer(token.string))
        if not found:
            continue
        line = token.start[0]
        for match in found:
            kind = re.sub(r":\s*", ": ", match["kind"])
            if kind.startswith(_NEEDS_CODES) and not match["codes"]:
                yield Fault(line, f"`{kind}` without a code: name the rule")
        after = token.string[found[-1].end("codes" if found[-1]["codes"] else "kind") :]
        if not _REASON.search(after):
            yield Fault(line, f"no reason beside {token.string!r}: say why")


def check_settings(text: str) -> Iterator[Fault]:
    """Yield a fault for each ruff rule that `pyproject.toml` silences without a reason."""
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("["):
            section = line
        if not section.startswith("[tool.ruff.lint") or line.startswith("select"):
            continue
        if _SILENCED.match(line) and not line.partition("#")[2].strip():
            yield Fault(number, f"no reason beside {line.strip()}: say why")


def check_script(text: str) -> Iterator[Fault]:
    """Yield a fault if a Lua script does not open with what it takes and returns."""
    lines = text.splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    opening, body = "\n".join(lines[:end]), "\n".join(lines[end:])
    for table in ("KEYS", "ARGV"):
        if table in body and table not in opening:
            yield Fault(1, f"the opening comment does not describe {table}")
    if "returns" not in opening.lower():
        yield Fault(1, "the opening comment does not say what the script returns")


def check_file(path: Path) -> Iterator[Fault]:
    """Yield what is wrong with the file at `path`."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from check_length(text)
        yield from check_docstring(text)
        yield from check_comments(text)
    elif path.suffix == ".lua":
        yield from check_script(text)
    elif path.name == "pyproject.toml":
        yield from check_settings(text)


def list_files(root: Path) -> Iterator[Path]:
    """Yield the files of the repository at `root` that the rules are about."""
    yield root / "pyproject.toml"
    for name in ROOTS:
        top = root / name
        yield from [top] if top.is_file() else sorted(top.rglob("*.py"))
    yield from sorted((root / "src").rglob("*.lua"))


def main() -> int:
    """Print every fault as ``path:line: text``; return 1 if there is any."""
    root = Path.cwd()
    faults = [(path, fault) for path in list_files(root) for fault in check_file(path)]
    for path, fault in faults:
        print(f"{path.relative_to(root)}:{fault.line}: {fault.text}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
