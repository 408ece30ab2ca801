"""A small app that shows which worker serves which request.

.. code-block:: text

    $ flask --app example_app prefork-run

Then open http://127.0.0.1:5000/ and send some requests. It also runs under
``flask run``, but without slots.
"""

from __future__ import annotations

import typing as t

from flask import Flask

from .roster import Roster
from .views import bp

__all__ = ["create_app"]


def create_app(config: t.Mapping[str, t.Any] | None = None) -> Flask:
    """Build the app. ``flask prefork-run`` calls this once, before it forks, so
    all workers share the :class:`.Roster` that is made here.

    :param config: overrides of the app's defaults, by configuration key.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 256 * 1024 * 1024
    app.config.from_mapping(config)
    app.extensions["example_app.roster"] = Roster()
    app.register_blueprint(bp)
    return app
