"""The app that a script of werkzeug's tests makes, for the command to serve."""

from __future__ import annotations

import json
import os
import runpy
import sys
import typing as t
from unittest import mock

from flask import Flask
from stand_in import VARIABLE


def _run_script() -> dict[str, t.Any]:
    """Run the script.

    :return: What it calls ``run_simple`` with.
    """
    argv = json.loads(os.environ[VARIABLE])
    # As the interpreter does for a script.
    sys.path.insert(0, os.path.dirname(argv[0]))
    with (
        mock.patch("sys.argv", argv),
        mock.patch("werkzeug.serving.run_simple") as run_simple,
    ):
        runpy.run_path(argv[0], run_name="__main__")
    return run_simple.call_args.kwargs


_given = _run_script()
#: What the command takes is a Flask app, and what the script makes is none.
app = Flask(__name__)
app.wsgi_app = _given["application"]  # type: ignore[method-assign]
#: For ``--cert``.
context = _given.get("ssl_context")
