"""Apps that can't be loaded: what is shown of them."""

from __future__ import annotations

import functools
import logging
import sys
import traceback
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.cli import NoAppException
from flask.cli import ScriptInfo

from flask_prefork.system.log import base
from flask_prefork.zygote import loading
from flask_prefork.zygote import unloadable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where apps are written, and what was imported from there is forgotten."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


def load(app: str | None) -> t.Any:
    return loading.load(ScriptInfo(app_import_path=app), {}, {})


def lines(error: BaseException) -> list[str]:
    """The functions and files of a traceback."""
    frames = traceback.extract_tb(unloadable.cut(error).__traceback__)
    return [f"{Path(frame.filename).name}:{frame.name}" for frame in frames]


# Tracebacks


def test_the_callers_frames_are_cut(folder: Path) -> None:
    (folder / "shop_a.py").write_text("import shop_b\n")
    (folder / "shop_b.py").write_text("def f():\n    raise LookupError\n\n\nf()\n")
    with pytest.raises(LookupError) as caught:
        load("shop_a")
    assert lines(caught.value) == [
        "shop_a.py:<module>",
        "shop_b.py:<module>",
        "shop_b.py:f",
    ]


def test_a_factorys_are_kept(folder: Path) -> None:
    (folder / "shop_c.py").write_text(
        "from flask_prefork import Prefork\n\n\n"
        "def create_app():\n    Prefork().limit(concurrency=0)\n"
    )
    with pytest.raises(ValueError, match="concurrency") as caught:
        load("shop_c:create_app")
    # What the app has called is its own, even if that is ours.
    found = lines(caught.value)
    assert found[0] == "shop_c.py:create_app"
    assert found[1] == "extension.py:limit"


def test_a_module_that_can_not_be_compiled_has_none(folder: Path) -> None:
    (folder / "shop_d.py").write_text("def x(:\n")
    with pytest.raises(SyntaxError) as caught:
        load("shop_d")
    assert lines(caught.value) == []


def test_a_quoted_traceback_is_cut(folder: Path) -> None:
    (folder / "shop_e.py").write_text("import shop_f\n")
    (folder / "shop_f.py").write_text("import nowhere\n")
    with pytest.raises(NoAppException) as caught:
        load("shop_e")
    text = str(caught.value)
    assert text.startswith("While importing 'shop_e', an ImportError was raised:")
    assert text.count("Traceback") == 1
    assert "shop_e.py" in text and "shop_f.py" in text
    assert "flask/cli.py" not in text


def test_what_is_not_there_stays_as_it_is(folder: Path) -> None:
    with pytest.raises(NoAppException, match="^Could not import 'shop_none'.$"):
        load("shop_none")


def test_the_hook_for_exceptions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[t.Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args))
    error = LookupError("lost")
    unloadable.show(error)
    assert seen == [(LookupError, error, None)]


def test_later_generations_are_told_by_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "propagate", True)
    printed: list[t.Any] = []
    hook = functools.wraps(sys.__excepthook__)(lambda *args: printed.append(args))
    monkeypatch.setattr(sys, "excepthook", hook)
    unloadable.show(LookupError("lost"), generation=2)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "The app can't be loaded:"
    assert record.exc_info is not None and str(record.exc_info[1]) == "lost"
    # Not twice; but an agent's own hook is called.
    assert not printed
    monkeypatch.setattr(sys, "excepthook", lambda *args: printed.append(args))
    unloadable.show(LookupError("lost"), generation=2)
    assert len(printed) == 1


def test_an_error_that_is_raised_again_and_again_stays_short(folder: Path) -> None:
    (folder / "shop_g.py").write_text("raise LookupError('lost')\n")
    loaded = loading.load(
        ScriptInfo(app_import_path="shop_g"), {}, {}, shows_failure=True
    )
    assert loaded.is_failure
    sizes = set()
    for _ in range(3):
        with pytest.raises(LookupError) as caught:
            loaded.app({}, lambda *args: None)  # type: ignore[arg-type]
        sizes.add(len(caught.traceback))
    assert len(sizes) == 1


# Apps of another kind

OTHERS = """\
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix


def application(environ, start_response):
    start_response("200 OK", [])
    return []


class Other:
    def __call__(self, environ, start_response):
        return application(environ, start_response)


other = Other()
typed = Other


class Asynchronous:
    async def __call__(self, scope, receive, send):
        pass


asynchronous = Asynchronous()


async def coroutine(scope, receive, send):
    pass


def create_app(config, debug):
    raise AssertionError


def around():
    return ProxyFix(ProxyFix(Flask(__name__).wsgi_app))


wrapped = around()
number = 3
"""


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("shop_h:application", "is a plain WSGI callable (function) and no Flask app"),
        ("shop_h:other", "is a plain WSGI callable (shop_h.Other) and no Flask app"),
        ("shop_h:asynchronous", "is an ASGI app (shop_h.Asynchronous)"),
        ("shop_h:coroutine", "is an ASGI app (function)"),
        (
            "shop_h:wrapped",
            "is a middleware (werkzeug.middleware.proxy_fix.ProxyFix) and no Flask app",
        ),
    ],
)
def test_what_is_no_flask_app(folder: Path, app: str, words: str) -> None:
    (folder / "shop_h.py").write_text(OTHERS)
    with pytest.raises(NoAppException) as caught:
        load(app)
    text = str(caught.value)
    assert text.startswith(f"{app!r} {words}")
    assert text.endswith(".") and "\n" not in text
    if "plain" in words:
        assert "app.wsgi_app = " in text and "DispatcherMiddleware" in text
    if "middleware" in words:
        assert "app.wsgi_app = ProxyFix(app.wsgi_app)" in text


@pytest.mark.parametrize(
    "app", ["shop_h:create_app", "shop_h:number", "shop_h:typed", "shop_h:around()"]
)
def test_what_is_no_app_at_all(folder: Path, app: str) -> None:
    (folder / "shop_h.py").write_text(OTHERS)
    with pytest.raises(NoAppException) as caught:
        load(app)
    assert "WSGI callable" not in str(caught.value)


@pytest.mark.parametrize(("file", "app"), [("shop_i", "shop_i"), ("wsgi", None)])
def test_an_app_without_a_name(folder: Path, file: str, app: str | None) -> None:
    """A module has one that is called ``app`` or ``application``."""
    (folder / f"{file}.py").write_text(
        "def application(environ, start_response):\n    return []\n"
    )
    with pytest.raises(NoAppException) as caught:
        load(app)
    assert str(caught.value).startswith(f"'{file}:application' is a plain WSGI")


def test_what_is_suggested_works(folder: Path) -> None:
    (folder / "shop_j.py").write_text(OTHERS)
    with pytest.raises(NoAppException) as caught:
        load("shop_j:other")
    _, _, code = str(caught.value).partition("only calls it: ")
    statements = code.partition(". Or ")[0].replace("; ", "\n")
    namespace: dict[str, t.Any] = {"__name__": "shop_k"}
    exec(f"from flask import Flask\n{statements}", namespace)
    assert namespace["app"].test_client().get("/anything").status_code == 200
