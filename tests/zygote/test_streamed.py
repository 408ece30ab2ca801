"""Routes whose request bodies are streamed."""

from __future__ import annotations

import functools
import typing as t

import pytest
from flask import Blueprint
from flask import current_app
from flask import Flask
from flask.views import View
from werkzeug.routing import BaseConverter

from flask_prefork import Prefork
from flask_prefork.zygote.streamed import find_streamed


def checked(f: t.Any) -> t.Any:
    """A decorator as extensions have them."""

    @functools.wraps(f)
    def wrapper(*args: t.Any, **options: t.Any) -> t.Any:
        return f(*args, **options)

    return wrapper


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    prefork = Prefork(app)

    @app.post("/collected/<name>")
    def collected(name: str) -> str:
        return name

    @app.post("/streamed/<int:number>")
    @checked
    @prefork.stream_body
    def streamed(number: int) -> str:
        return str(number)

    class Upload(View):
        methods: t.ClassVar = ["PUT"]
        decorators: t.ClassVar = [prefork.stream_body]

    app.add_url_rule("/class", view_func=Upload.as_view("class_based"))
    files = Blueprint("files", __name__)
    files.post("/", endpoint="upload")(lambda: "")
    app.register_blueprint(files, url_prefix="/files")
    prefork.stream_body("files.upload")
    prefork.stream_body("files.unknown")
    return app


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("POST", "/streamed/1", True),
        ("POST", "/streamed/1?a=b", True),
        ("POST", "http://b.example/streamed/1", True),
        ("POST", "/%73treamed/1", True),
        ("PUT", "/class", True),
        ("POST", "/files/", True),
        ("POST", "/files", False),
        ("POST", "/streamed/x", False),
        ("GET", "/streamed/1", False),
        ("POST", "/collected/1", False),
        ("POST", "/nowhere", False),
        ("OPTIONS", "*", False),
    ],
)
@pytest.mark.parametrize("host", ["", "a.example", "[::1]:80", "?"])
def test_routes(
    app: Flask, method: str, target: str, expected: bool, host: str
) -> None:
    find = find_streamed(app)
    assert find is not None
    assert find(method, target, host) is expected


def test_subdomains() -> None:
    app = Flask(__name__, subdomain_matching=True)
    app.config["SERVER_NAME"] = "a.example"
    prefork = Prefork(app)
    app.post("/", subdomain="up", endpoint="up")(prefork.stream_body(lambda: ""))
    find = find_streamed(app)
    assert find is not None
    assert find("POST", "/", "up.a.example")
    assert not find("POST", "/", "a.example")


def test_a_converter_that_fails_is_the_apps_to_answer_for() -> None:
    """It may need what it has in the app only."""

    class Converter(BaseConverter):
        def to_python(self, value: str) -> str:
            return str(current_app.config[value])

    app = Flask(__name__)
    app.url_map.converters["setting"] = Converter
    prefork = Prefork(app)
    app.post("/<setting:name>", endpoint="up")(prefork.stream_body(lambda name: ""))
    find = find_streamed(app)
    assert find is not None
    assert not find("POST", "/DEBUG", "a.example")


def test_nothing_is_asked_where_no_route_wants_it() -> None:
    app = Flask(__name__)
    app.post("/", endpoint="a")(lambda: "")
    assert find_streamed(app) is None
    Prefork(app)
    assert find_streamed(app) is None
    assert find_streamed(app.wsgi_app) is None
