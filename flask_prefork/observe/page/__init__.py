"""The page that shows the server in a browser.

The observer's site calls :func:`get` for each of its files: a document, style sheets,
and modules. The modules request ``status.json`` once a second, by a path relative to
the document's. The page has no build step and loads nothing from other hosts. The
document contains no script and no style, so a strict Content-Security-Policy is
possible.
"""

from __future__ import annotations

import functools
from importlib import resources

_HTML = "text/html; charset=utf-8"
_CSS = "text/css; charset=utf-8"
_SCRIPT = "text/javascript; charset=utf-8"

#: The media type and the file of each path.
_FILES = {
    "/": (_HTML, "page.html"),
    "/colours.css": (_CSS, "colours.css"),
    "/page.css": (_CSS, "page.css"),
    "/workers.css": (_CSS, "workers.css"),
    "/charts.css": (_CSS, "charts.css"),
    "/icon.svg": ("image/svg+xml", "icon.svg"),
    "/page.js": (_SCRIPT, "page.js"),
    "/figures.js": (_SCRIPT, "figures.js"),
    "/elements.js": (_SCRIPT, "elements.js"),
    "/words.js": (_SCRIPT, "words.js"),
    "/tips.js": (_SCRIPT, "tips.js"),
    "/head.js": (_SCRIPT, "head.js"),
    "/states.js": (_SCRIPT, "states.js"),
    "/workers.js": (_SCRIPT, "workers.js"),
    "/charts.js": (_SCRIPT, "charts.js"),
    "/totals.js": (_SCRIPT, "totals.js"),
}


def get(path: str) -> tuple[str, bytes] | None:
    """A part of the page.

    :param path: The request's path.
    :return: Its media type and content; ``None`` if it is none of the page's.
    """
    return _read(path) if path in _FILES else None


@functools.cache
def _read(path: str) -> tuple[str, bytes]:
    media_type, name = _FILES[path]
    return media_type, resources.files(__name__).joinpath(name).read_bytes()
