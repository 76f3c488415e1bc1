"""Sphinx's configuration: hand-written pages in Markdown, the reference from the docstrings.

`nox -s docs` builds with every warning an error, so a page that is in no table
of contents, a link that leads nowhere and a docstring that does not parse fail.
"""

from importlib.metadata import version as installed_version

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
