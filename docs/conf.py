"""How the manual is built: ``make docs``."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "flask_prefork"
author = "The flask_prefork authors"
copyright = author
release = metadata.version("flask_prefork")
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc", "pallets_sphinx_themes", "manual"]
default_role = "code"
# Whose options are meant where nothing else is said.
rst_prolog = ".. program:: flask prefork-run"
# It would make a dash of the two of an option.
smartquotes = False
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True

html_theme = "flask"
html_title = f"flask_prefork {version}"
html_static_path = ["_static"]
html_css_files = ["manual.css", "dark.css"]
# The theme's banner asks PyPI for the newest version.
version_banner = False
html_show_sourcelink = False
html_show_copyright = False
html_sidebars = {
    "index": ["searchbox.html"],
    "**": ["localtoc.html", "relations.html", "searchbox.html"],
}
