"""Limits of routes, as users write them."""

from __future__ import annotations

import json
import typing as t

import pytest

from flask_prefork.settings.limits import from_document
from flask_prefork.settings.limits import MAX_LIMITS
from flask_prefork.settings.limits import parse
from flask_prefork.settings.limits import RouteLimit
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import Settings
from flask_prefork.settings.table import SettingsError


def test_a_limit() -> None:
    fields = {"concurrency": 3, "timeout": 2, "queue_timeout": 0}
    assert parse("/a", fields, "it") == RouteLimit("/a", 3, 2.0, 0.0)
    assert parse("/a", {"timeout": 1.5}, "it") == RouteLimit("/a", None, 1.5, None)
    fields = {"timeout": "5m", "queue_timeout": "500ms"}
    assert parse("/a", fields, "it") == RouteLimit("/a", None, 300.0, 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (1, "it must be a dictionary such as"),
        ({}, "it limits nothing"),
        ({"timeout": None}, "it limits nothing"),
        ({"time_out": 1}, "did you mean 'timeout'?"),
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1"),
        ({"concurrency": True}, "concurrency must be a whole number"),
        ({"concurrency": 1.5}, "concurrency must be a whole number"),
        ({"timeout": -1}, "timeout must be a number of seconds of at least 0"),
        ({"timeout": "soon"}, "or a time such as 500ms, 30s, 5m or 1h, not 'soon'"),
        ({"timeout": "-1s"}, "timeout must be a number of seconds of at least 0"),
        ({"queue_timeout": float("nan")}, "queue_timeout must be a number of seconds"),
        ({"queue_timeout": False}, "queue_timeout must be a number of seconds"),
    ],
)
def test_slips(fields: t.Any, message: str) -> None:
    with pytest.raises(SettingsError, match="it") as raised:
        parse("/a", fields, "it")
    assert message in str(raised.value)


def test_they_go_with_the_settings() -> None:
    limits = (RouteLimit("/a", 1), RouteLimit("b", timeout=2.0))
    settings = Settings(**{**resolve({}).as_dict(), "limits": limits})
    found = json.loads(json.dumps(settings.as_dict()))
    assert from_document(found["limits"]) == limits
    assert "limits" not in resolve({}).as_dict()


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        [1],
        [{}],
        [{"name": 1, "concurrency": 1}],
        [{"name": "/a"}],
        [{"name": "/a", "concurrency": 0}],
        [{"name": "/a", "concurrency": 1}] * 2,
        [{"name": str(n), "concurrency": 1} for n in range(MAX_LIMITS + 1)],
    ],
)
def test_documents_that_hold_none(document: t.Any) -> None:
    with pytest.raises(ValueError, match="limit"):
        from_document(document)
