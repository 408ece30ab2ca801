"""A small app that shows which worker serves which request.

.. code-block:: text

    $ flask --app example_app prefork-run --admin 9000

Then open http://127.0.0.1:5000/ and send some requests, and look at the status page on
http://127.0.0.1:9000/. It also runs under ``flask run``, but without slots.
"""

from __future__ import annotations

import typing as t

from flask import Flask

from flask_prefork import worker_started

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
    roster = app.extensions["example_app.roster"] = Roster()

    # Sent in each worker before its first request. blinker keeps no receiver alive
    # by itself.
    @worker_started.connect_via(app, weak=False)
    def enter(sender: Flask, slot: int, generation: int) -> None:
        roster.enter(slot)

    app.register_blueprint(bp)
    return app
