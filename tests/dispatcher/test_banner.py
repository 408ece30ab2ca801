"""What is shown of the settings when the server begins to serve."""

from __future__ import annotations

import dataclasses

import pytest

from flask_prefork.dispatcher import banner
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import ROWS


def test_settings_other_than_the_defaults() -> None:
    assert banner._changed(resolve({})) == "none"
    settings = resolve({"admin": "9000", "admin_token": "xyzzy"})
    assert banner._changed(settings) == "admin 9000, admin-token is set"
    # As --print-config shows them, and as the options take them.
    settings = resolve({"timeout": 0, "keep_alive": 2.5, "access_log": False})
    assert banner._changed(settings) == "timeout 0, keep-alive 2.5s, access-log off"


def test_what_the_table_calls_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolve({"admin": "unix:/run/status.sock"})
    assert banner._changed(settings) == "admin unix:/run/status.sock"
    row = dataclasses.replace(ROWS["admin"], secret=True)
    monkeypatch.setattr(banner, "ROWS", {**ROWS, "admin": row})
    assert banner._changed(settings) == "admin is set"
