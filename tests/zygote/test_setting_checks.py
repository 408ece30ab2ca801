"""Settings about proxies and the access log."""

from __future__ import annotations

import typing as t

import pytest

from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import SettingsError
from flask_prefork.zygote.setting_checks import check


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"forwarded_allow_ips": "proxy"}, "--forwarded-allow-ips: 'proxy' is no "),
        ({"proxy_protocol": True}, "--proxy-protocol needs a list of the proxies"),
        ({"proxy_allow_from": "::1"}, "--proxy-allow-from has no effect without"),
        (
            {"proxy_allow_from": "x", "proxy_protocol": True},
            "--proxy-allow-from: 'x' is no address",
        ),
        (
            {"access_log_format": "%(e)s"},
            "--access-log-format: there is no %(e)s; did you mean",
        ),
        ({"access_logfile": ""}, "--access-logfile names no file"),
    ],
)
def test_what_cannot_be(said: dict[str, t.Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(said, check=check)
    text = str(caught.value)
    assert text.startswith(words)
    assert text.endswith((".", "?")) and "\n" not in text


def test_what_can() -> None:
    said = {
        "forwarded_allow_ips": "10.0.0.0/8,unix:",
        "proxy_protocol": True,
        "access_log_format": "json",
        "access_logfile": "-",
    }
    settings = resolve(said, {"PREFORK_PROXY_ALLOW_FROM": "*"})
    assert settings.proxy_allow_from == "*"
    assert resolve({}, {"PREFORK_PROXY_PROTOCOL": False}).proxy_protocol is False
