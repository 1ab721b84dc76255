"""Sphinx configuration."""

from qforge_sdk import __version__

project = "qforge_sdk"
author = "The qforge_sdk developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["build"]
html_theme = "furo"
html_title = "qforge_sdk"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
myst_heading_anchors = 3
