"""Uses what apps usually use, and says which modules that has imported in a worker."""

from __future__ import annotations

import os
import sys
import typing as t
from collections.abc import Iterator

from flask import abort
from flask import flash
from flask import Flask
from flask import get_flashed_messages
from flask import jsonify
from flask import make_response
from flask import redirect
from flask import render_template_string
from flask import request
from flask import Response
from flask import send_file
from flask import session
from flask import url_for

app = Flask(__name__)
app.secret_key = "a key"
at_fork: set[str] = set()

_PAGE = "<p>{{ names|tojson }}{% for one in names %} {{ url_for(one) }}{% endfor %}\n"

os.register_at_fork(after_in_child=lambda: at_fork.update(sys.modules))


@app.get("/imported")
def imported() -> list[str]:
    return sorted(set(sys.modules) - at_fork)


@app.get("/")
def index() -> str:
    return "hello"


@app.post("/form")
def form() -> dict[str, t.Any]:
    return {"form": request.form, "files": list(request.files)}


@app.post("/json")
def in_json() -> Response:
    return jsonify(request.get_json())


@app.get("/session")
def in_session() -> str:
    session["count"] = session.get("count", 0) + 1
    flash("counted")
    return str(get_flashed_messages())


@app.get("/page")
def page() -> str:
    return render_template_string(_PAGE, names=["index", "in_session"])


@app.get("/file")
def file() -> Response:
    return send_file(__file__)


@app.get("/stream")
def stream() -> Iterator[str]:
    yield from "stream"


@app.get("/cookie")
def cookie() -> Response:
    response = make_response(str(request.authorization))
    response.set_cookie("name", "value", max_age=1)
    return response


@app.get("/redirect")
def elsewhere() -> t.Any:
    return redirect(url_for("index"))


@app.get("/forbidden")
def forbidden() -> t.NoReturn:
    abort(403)


@app.get("/error")
def error() -> t.NoReturn:
    raise LookupError("an app's error")
