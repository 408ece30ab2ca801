"""Routes with limits."""

from __future__ import annotations

import functools
import typing as t

import pytest
from flask import Blueprint
from flask import Flask
from flask.views import MethodView

from flask_prefork import Prefork
from flask_prefork.http.route_limits import RouteLimits
from flask_prefork.settings.limits import MAX_LIMITS
from flask_prefork.settings.limits import RouteLimit
from flask_prefork.settings.table import SettingsError
from flask_prefork.zygote.limited import find_limited
from flask_prefork.zygote.limited import find_limits


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

    @app.get("/report/<name>")
    @app.get("/old report")
    @checked
    @prefork.limit(concurrency=2)
    def report(name: str = "") -> str:
        return name

    @app.get("/free/<path:rest>")
    def free(rest: str) -> str:
        return rest

    class Item(MethodView):
        decorators: t.ClassVar = [prefork.limit(timeout=5)]

        def get(self) -> str:
            return ""

        def post(self) -> str:
            return ""

    app.add_url_rule("/item", view_func=Item.as_view("item"))
    app.add_url_rule(
        "/socket", "socket", prefork.limit(concurrency=9)(lambda: ""), websocket=True
    )
    files = Blueprint("files", __name__)
    files.get("/<int:number>", endpoint="file")(lambda number: "")
    files.post("/<int:number>", endpoint="write")(lambda number: "")
    app.register_blueprint(files, url_prefix="/files")
    app.config["PREFORK_LIMITS"] = {"/files/<int:number>": {"concurrency": 1}}
    return app


def look(app: Flask) -> RouteLimits:
    limited = find_limited(app, find_limits(app))
    assert limited is not None
    return limited


def test_what_the_app_says(app: Flask) -> None:
    assert find_limits(app) == (
        RouteLimit("/files/<int:number>", 1),
        RouteLimit("report", 2),
        RouteLimit("item", timeout=5.0),
        RouteLimit("socket", 9),
    )


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("GET", "/report/a", "report"),
        ("HEAD", "/report/a?b=c", "report"),
        ("GET", "/repor%74/a", "report"),
        ("GET", "/old%20report", "report"),
        ("GET", "http://localhost/report/a", "report"),
        ("POST", "/report/a", ""),
        ("GET", "/report/a/b", ""),
        ("GET", "//report/a", "report"),
        ("GET", "/free/report/a", ""),
        ("GET", "/free/%2Freport", ""),
        ("POST", "/item", "item"),
        ("GET", "/files/1", "/files/<int:number>"),
        ("POST", "/files/1", "/files/<int:number>"),
        ("GET", "/files/x", ""),
        ("OPTIONS", "*", ""),
        ("GET", "/nowhere", ""),
    ],
)
def test_whose_limit_it_is(app: Flask, method: str, target: str, name: str) -> None:
    limits = find_limits(app)
    number = look(app).find(method, target, [(b"Host", b"localhost")])
    assert (limits[number - 1].name if number else "") == name


@pytest.mark.parametrize("upgrade", [b"websocket", b"WebSocket", b"h2c", b""])
def test_a_rule_for_websockets(app: Flask, upgrade: bytes) -> None:
    limits = find_limits(app)
    fields = [(b"Upgrade", upgrade), (b"Connection", b"keep-alive, Upgrade")]
    number = look(app).find("GET", "/socket", fields)
    name = limits[number - 1].name if number else ""
    assert name == ("socket" if upgrade.lower() == b"websocket" else "")


@pytest.mark.parametrize(
    ("connection", "minor"), [(b"keep-alive", 1), (b"", 1), (b"upgrade", 0)]
)
def test_what_only_looks_like_a_websocket(
    app: Flask, connection: bytes, minor: int
) -> None:
    fields = [(b"Upgrade", b"websocket"), (b"Connection", connection)]
    limited = look(app)
    number = limited.find("GET", "/report/a", fields, minor)
    assert limited[number].concurrency == 2


def test_two_upgrades_are_no_websocket(app: Flask) -> None:
    """To werkzeug, which has them joined, and so serves the ordinary route."""
    fields = [(b"Upgrade", b"websocket")] * 2 + [(b"Connection", b"upgrade")]
    limited = look(app)
    assert limited[limited.find("GET", "/report/a", fields)].concurrency == 2


@pytest.mark.parametrize("target", ["/slash", "/slash/", "//slash/", "///slash"])
def test_a_rule_that_matches_without_its_slash(target: str) -> None:
    app = Flask(__name__)
    app.url_map.strict_slashes = False
    app.get("/slash/")(Prefork(app).limit(concurrency=1)(lambda: ""))
    assert look(app).find("GET", target, []) == 1


def test_the_configuration_goes_before_the_decorator(app: Flask) -> None:
    app.config["PREFORK_LIMITS"] = {"/report/<name>": {"concurrency": 7}}
    limited = look(app)
    number = limited.find("GET", "/report/a", [])
    assert limited[number].concurrency == 7
    assert limited[limited.find("GET", "/old%20report", [])].concurrency == 2


def test_without_limits_nobody_asks() -> None:
    app = Flask(__name__)
    app.get("/")(lambda: "")
    assert find_limits(app) == ()
    assert find_limited(app, ()) is None


def test_an_app_that_is_not_flasks() -> None:
    def app(environ: t.Any, start_response: t.Any) -> list[bytes]:
        return []

    assert find_limits(app) == ()
    assert find_limited(app, [RouteLimit("/a", 1)]) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "PREFORK_LIMITS must be a dictionary such as"),
        ({"/item/": {"concurrency": 1}}, "no rule '/item/'; did you mean '/item'?"),
        ({1: {"concurrency": 1}}, "no rule 1"),
        ({"/item": {"timeuot": 1}}, "PREFORK_LIMITS['/item'] has no 'timeuot'"),
    ],
)
def test_slips(app: Flask, value: t.Any, message: str) -> None:
    app.config["PREFORK_LIMITS"] = value
    with pytest.raises(SettingsError) as raised:
        find_limits(app)
    assert message in str(raised.value)


def test_two_of_a_name() -> None:
    app = Flask(__name__)
    limit = Prefork(app).limit
    app.add_url_rule("/a", "/b", limit(concurrency=1)(lambda: ""))
    app.add_url_rule("/b", "other", lambda: "")
    app.config["PREFORK_LIMITS"] = {"/b": {"concurrency": 1}}
    with pytest.raises(SettingsError, match="are both called '/b'"):
        find_limits(app)


def test_too_many() -> None:
    app = Flask(__name__)
    rules = [f"/{number}" for number in range(MAX_LIMITS + 1)]
    for rule in rules:
        app.add_url_rule(rule, rule, lambda: "")
    app.config["PREFORK_LIMITS"] = {rule: {"concurrency": 1} for rule in rules}
    with pytest.raises(SettingsError, match="64 are the most"):
        find_limits(app)


@pytest.mark.parametrize("fields", [{}, {"concurrency": 0}, {"timeout": -1}])
def test_a_decorator_that_makes_no_sense(fields: dict[str, t.Any]) -> None:
    with pytest.raises(ValueError, match=r"Prefork\.limit\(\)"):
        Prefork().limit(**fields)
