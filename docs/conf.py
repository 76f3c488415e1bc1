"""Sphinx's configuration: hand-written pages in Markdown, the reference from the docstrings.

`nox -s docs` builds with every warning an error, so a page that is in no table
of contents, a link that leads nowhere and a docstring that does not parse fail.
"""

from importlib import import_module
from importlib.metadata import version as installed_version
from pkgutil import iter_modules

from sphinx.application import Sphinx  # type: ignore[import-not-found] # only the session docs has it
from sphinx.environment import BuildEnvironment  # type: ignore[import-not-found] # only the session docs has it
from sphinx.pycode import ModuleAnalyzer  # type: ignore[import-not-found] # only the session docs has it
from sphinx.util.logging import getLogger  # type: ignore[import-not-found] # only the session docs has it

LOG = getLogger(__name__)

project = "Terzetto"
author = "The Terzetto authors"
project_copyright = "The Terzetto authors"
release = installed_version("terzetto")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "cyclopts.ext.sphinx",  # the reference of the command, made from the command
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# `Name` in a docstring is a reference where the name is known, and code where it is not.
default_role = "py:obj"
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
}
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Terzetto"
html_copy_source = False

# Tasks have an attribute `type`, which Sphinx takes for a second meaning of the built-in.
suppress_warnings = ["ref.python"]

PACKAGES = ["actor", "codec", "errors", "observe", "pool", "redis", "rmap", "server"]
PACKAGES += ["streaming", "tasks", "testing"]


def find_doc(name: str, value: object) -> list[str]:
    """Return what stands under a value or alias of types in the module that defines it."""
    package, _, own = name.rpartition(".")
    for module in iter_modules(import_module(package).__path__, f"{package}."):
        docs = ModuleAnalyzer.for_module(module.name).find_attr_docs()
        if ("", own) in docs and getattr(import_module(module.name), own) is value:
            return list(docs["", own])
    return []


def say_what_values_are(
    _app: Sphinx, what: str, name: str, obj: object, _options: object, lines: list[str]
) -> None:
    """Give a value or alias of types, which has no docstring, the text under its definition."""
    if what == "data":
        lines[:] = find_doc(name, obj)
        if not lines:
            LOG.warning("%s has no docstring under it where it is defined", name)


def check_all_are_there(_app: Sphinx, env: BuildEnvironment) -> None:
    """Complain of public names that no page of the reference describes."""
    known = env.domains["py"].data["objects"]
    for package in PACKAGES:
        full = f"terzetto.{package}"
        for name in import_module(full).__all__:
            if f"{full}.{name}" not in known:
                LOG.warning("the reference lacks %s.%s", full, name)


def setup(app: Sphinx) -> None:
    """Take part in the building."""
    app.connect("autodoc-process-docstring", say_what_values_are)
    app.connect("env-check-consistency", check_all_are_there)
