"""The repository's commands, one nox session each; `README.md` shows how to run them.

Every session makes its own environment with pip, from `pyproject.toml` alone:
the package with the extras it needs, editable, and dependency groups. An
environment is kept and only filled again when `pyproject.toml` or the session's
wants change. Contributors and `.ci/run` call this, through `nox -s`.
"""

import hashlib
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "types", "tests", "examples", "docs"]

PYPROJECT = Path(__file__).parent / "pyproject.toml"
PYTHON_SOURCES = ["src", "tests", "examples", "noxfile.py", "docs/conf.py"]


def install(session: nox.Session, *groups: str, extras: str = "server,json,cli") -> None:
    """Install the package, editable, with `extras` and dependency `groups`, unless it is done."""
    wanted = [f"-e.[{extras}]", *nox.project.dependency_groups(nox.project.load_toml(), *groups)]
    digest = hashlib.sha256("\n".join([*wanted, PYPROJECT.read_text()]).encode()).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    stamp.unlink(missing_ok=True)
    session.install(*wanted)
    stamp.write_text(digest)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the sign-up flow of a web shop on the embedded server."""
    install(session, "examples")
    session.run("python", "-m", "examples.signup", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test-suite; words after `--` go to pytest."""
    install(session, "test", "examples")
    session.run(
        "pytest",
        "--numprocesses=3",  # on two cores: most tests wait for servers more than they compute
        "--dist=worksteal",
        "--ignore=tests/faults",
        "--ignore=tests/types",
        *session.posargs,
    )


@nox.session
def faults(session: nox.Session) -> None:
    """Run the tests that kill and stop servers and workers for a long time; not part of `tests`."""
    install(session, "test", "examples")
    session.run("pytest", *(session.posargs or ["tests/faults"]))


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example that has a transcript and compare its output; names choose some."""
    install(session, "examples")
    session.run("python", "-m", "tests.tooling.transcripts", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, with mypy and pyright, over everything; wrong programs must fail."""
    install(session, "types", "test", "examples", "bench")
    session.run("mypy", *PYTHON_SOURCES)
    # It would take a .venv in the repository for the environment to look into.
    session.run("basedpyright", "--warnings", f"--pythonpath={session.bin}/python")
    session.run("pytest", "--quiet", "tests/types")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, the layers of the package, and the rules that no linter knows."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("python", "-m", "tests.tooling.source_rules")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; a warning is an error."""
    install(session, "docs")
    session.run(
        "sphinx-build",
        "--fail-on-warning",
        "--keep-going",
        "--quiet",
        "--doctree-dir=docs/_build/doctrees",
        "docs",
        "docs/_build/html",
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the peers; `-- --list` names the cases, `-- --json FILE` writes figures."""
    install(session, "bench")
    session.run("python", "-m", "tests.bench", *session.posargs)
