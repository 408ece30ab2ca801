"""Checks of the settings about proxies and the access log, by the parsers of ``http``.

The command and ``loading.py`` give it to :func:`~.settings.table.resolve`, which calls
it only if there is something to check: it is imported by no other ``flask`` command.
"""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from collections.abc import Mapping

from ..http import log_format
from ..settings.keys import option_name
from ..settings.spec import SettingsError
from ..system import peers


def check(
    values: Mapping[str, t.Any],
    given: Mapping[str, str],
    errors: list[SettingsError],
) -> None:
    """Check what was given.

    :param values: The settings by name.
    :param given: How to speak of those that aren't defaults.
    :param errors: Where what can't be is added, in a sentence each.
    """
    for find in (_proxies, _log):
        errors += map(SettingsError, find(values, given))


def _proxies(values: Mapping[str, t.Any], given: Mapping[str, str]) -> Iterator[str]:
    for name in ("forwarded_allow_ips", "proxy_allow_from"):
        if name in given:
            try:
                peers.parse(values[name])
            except ValueError as e:
                yield f"{given[name]}: {e}."
    if values["proxy_protocol"] and "proxy_allow_from" not in given:
        yield (
            f"{given['proxy_protocol']} needs a list of the proxies; give it by"
            f" {option_name('proxy_allow_from')}, for example 10.0.0.0/8."
        )
    if "proxy_allow_from" in given and not values["proxy_protocol"]:
        yield (
            f"{given['proxy_allow_from']} has no effect without"
            f" {option_name('proxy_protocol')}."
        )


def _log(values: Mapping[str, t.Any], given: Mapping[str, str]) -> Iterator[str]:
    if "access_log_format" in given:
        try:
            log_format.compile_format(values["access_log_format"])
        except ValueError as e:
            text = str(e)
            end = "" if text.endswith("?") else "."
            yield f"{given['access_log_format']}: {text}{end}"
    if values["access_logfile"] == "":
        yield (
            f"{given['access_logfile']} names no file; give a path, or - for standard"
            " output."
        )
