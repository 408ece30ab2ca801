"""The app's settings, and the servers that are made for it."""

from __future__ import annotations

import logging
import socket
import sys
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.cli import ScriptInfo
from werkzeug.serving import WSGIRequestHandler

from flask_prefork.http.handler import PreforkRequestHandler
from flask_prefork.ipc import listener
from flask_prefork.settings import size
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import Settings
from flask_prefork.settings.table import SettingsError
from flask_prefork.system import cgroup
from flask_prefork.system.log import base as logger
from flask_prefork.zygote import loading


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def settings(**values: t.Any) -> Settings:
    return resolve(values, {}, {})


def info(app: Flask | None = None, error: Exception | None = None) -> ScriptInfo:
    def create() -> Flask:
        if error is not None:
            raise error
        return app or Flask(__name__)

    return ScriptInfo(create_app=create)


def load(found: ScriptInfo, shows_failure: bool = False, **values: t.Any) -> t.Any:
    loaded = loading.load(found, values, {}, shows_failure=shows_failure)
    assert loaded.is_failure is (shows_failure and not isinstance(loaded.app, Flask))
    return loaded.app, loaded.settings


class Handler(PreforkRequestHandler):
    """A subclass of ours."""


class Foreign(WSGIRequestHandler):
    """One that logs in its own way."""


# The app


def test_the_apps_configuration_is_resolved() -> None:
    app = Flask(__name__)
    app.config.update(PREFORK_MIN_IDLE=3, PREFORK_TIMEOUT=7)
    found, settings = load(info(app), timeout=9.0)
    assert found is app
    # The command line has priority.
    assert (settings.min_idle, settings.timeout) == (3, 9.0)


def test_an_app_that_can_not_be_loaded() -> None:
    with pytest.raises(LookupError, match="lost"):
        load(info(error=LookupError("lost")))


def test_an_app_that_ends_the_command(caplog: pytest.LogCaptureFixture) -> None:
    def create() -> Flask:
        sys.exit(3)

    with pytest.raises(SystemExit):
        load(ScriptInfo(create_app=create))
    told = "The app has ended the command while it was loaded: SystemExit(3)."
    assert told in caplog.text


def test_an_app_that_can_not_be_loaded_is_shown_to_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With ``--reload``, as ``flask run`` does."""
    app, settings = load(info(error=LookupError("lost")), True, min_idle=3)
    assert settings.min_idle == 3
    assert "LookupError: lost" in caplog.text
    for _ in range(2):
        with pytest.raises(LookupError, match="lost"):
            app({}, lambda *args: None)


def test_the_log_survives_the_apps_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``logging.config`` disables all loggers that were there."""
    monkeypatch.setattr(logger, "disabled", False)

    def create() -> Flask:
        logger.disabled = True
        return Flask(__name__)

    load(ScriptInfo(create_app=create))
    assert not logger.disabled


# The memory budget


@pytest.mark.parametrize(
    ("limit", "budget"),
    [
        (2**30, int((2**30 - loading.AUTO_REST) * loading.AUTO_PART)),
        (2**20, size.LEAST),
    ],
)
def test_a_memory_budget_is_a_part_of_the_control_groups_limit(
    monkeypatch: pytest.MonkeyPatch, limit: int, budget: int
) -> None:
    monkeypatch.setattr(cgroup, "memory_limit", lambda: limit)
    _, settings = load(info(), memory_budget="auto")
    assert size.parse(settings.memory_budget) == budget


def test_no_memory_budget_without_a_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cgroup, "memory_limit", lambda: None)
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.WARNING, logger.name):
        _, settings = load(info(), memory_budget="auto")
    assert settings.memory_budget is None
    assert "No control group limits" in caplog.text


# Addresses


def test_names_are_replaced_by_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "numeric", {"admin.test": "192.0.2.1"}.__getitem__)
    found = loading.find_addresses(settings(admin="admin.test:9000"))
    assert found.admin is not None
    assert "192.0.2.1" in found.admin
    assert found.agent_check is None


@pytest.mark.parametrize("admin", [None, "localhost:9000"])
def test_what_is_no_name_stays(
    monkeypatch: pytest.MonkeyPatch, admin: str | None
) -> None:
    monkeypatch.delattr(listener, "numeric")
    before = settings(admin=admin)
    assert loading.find_addresses(before) == before


def test_a_name_that_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str) -> str:
        raise listener.BindError(f"{host} is unknown")

    monkeypatch.setattr(listener, "numeric", fail)
    with pytest.raises(SettingsError, match=r"admin\.test is unknown"):
        loading.find_addresses(settings(admin="admin.test:9000"))


# Servers


def make(sock: socket.socket, public_name: t.Any = None, **values: t.Any) -> t.Any:
    app = Flask(__name__)
    maker = loading.server_maker(app, settings(**values), False, ["127.0.0.1"])
    return maker(sock, "127.0.0.1", public_name)


def test_a_server_has_the_settings(sock: socket.socket) -> None:
    server = make(
        sock,
        limit_request_fields=7,
        keep_alive=3.0,
        request_handler=f"{__name__}:Handler",
    )
    limits = server.context.limits
    assert (limits.fields, limits.keep_alive) == (7, 3.0)
    assert server.RequestHandlerClass is Handler
    assert not server.is_tls


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "to be given as module:Class: No module named 'nowhere'"),
        ("nowhere.Handler", "Can't import the request handler 'nowhere.Handler'"),
        ("json:Handler", "module 'json' has no attribute 'Handler'"),
        (f"{__name__}:settings", "is no subclass of"),
        ("builtins:dict", "is no subclass of"),
    ],
)
def test_no_request_handler(sock: socket.socket, name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(sock, request_handler=name)


def test_a_handler_that_logs_in_its_own_way(
    sock: socket.socket, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="has its own way of logging"):
        make(
            sock,
            request_handler=f"{__name__}:Foreign",
            access_logfile=str(tmp_path / "log"),
        )
    assert not (tmp_path / "log").exists()


def test_an_access_log_that_can_not_be_written(
    sock: socket.socket, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="Can't write the access log to"):
        make(sock, access_logfile=str(tmp_path))


def test_a_server_behind_the_tls_proxy(sock: socket.socket) -> None:
    server = make(sock, ["192.0.2.1", 443])
    assert server.is_tls
    environ = server.context.base_environ
    assert environ["wsgi.url_scheme"] == "https"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("192.0.2.1", "443")


@pytest.mark.parametrize(("workers", "has_console"), [(1, True), (2, False)])
def test_the_debuggers_console_needs_a_single_worker(
    sock: socket.socket, workers: int, has_console: bool
) -> None:
    chosen = replace(settings(), max_workers=workers)
    maker = loading.server_maker(Flask(__name__), chosen, True, ["a.test", "b.test"])
    debugger: t.Any = maker(sock, "127.0.0.1").app
    assert debugger.evalex is has_console
    assert {"a.test", "b.test"} <= set(debugger.trusted_hosts)
