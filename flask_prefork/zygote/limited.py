"""Which routes of the app have limits.

The app says so by :meth:`.Prefork.limit` and by its configuration's ``PREFORK_LIMITS``.
:func:`find_limits` reads both once the app is loaded; the result is a part of the
settings. What :func:`find_limited` makes is asked in workers for every request.
"""

from __future__ import annotations

import typing as t
from collections.abc import Mapping
from collections.abc import Sequence

from ..http.route_limits import RouteLimits
from ..settings.keys import LIMITS_KEY
from ..settings.keys import nearest
from ..settings.limits import MAX_LIMITS
from ..settings.limits import parse
from ..settings.limits import RouteLimit
from ..settings.spec import collected
from ..settings.spec import SettingsError
from .hooks import configuration
from .hooks import LIMIT
from .routes import is_flask
from .routes import matcher

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from flask import Flask
    from werkzeug.routing import Rule


def find_limits(
    app: WSGIApplication | Flask, errors: list[SettingsError] | None = None
) -> tuple[RouteLimit, ...]:
    """The limits that an app gives its routes.

    A limit of the configuration goes before that of the view's decorator.

    :param app: As the command has loaded it. Of an app that isn't Flask's nothing is
        known.
    :param errors: Where what is wrong is added; ``None`` to raise it.
    :raises SettingsError: ``PREFORK_LIMITS`` is wrong, or there are too many.
    """
    if not is_flask(app):
        return ()
    limits: list[RouteLimit] = []
    for name, fields, source in _given(app, errors):
        with collected(errors):
            limits.append(parse(name, fields, source))
    names = [limit.name for limit in limits]
    for name in dict.fromkeys(names):
        with collected(errors):
            if names.count(name) > 1:
                raise SettingsError(
                    f"An endpoint and a rule of {LIMITS_KEY} are both called {name!r};"
                    " give the endpoint another name."
                )
    with collected(errors):
        if len(limits) > MAX_LIMITS:
            raise SettingsError(
                f"There are {len(limits)} limits of routes; {MAX_LIMITS} are the most."
            )
    return tuple(limits)


def _given(
    app: Flask, errors: list[SettingsError] | None
) -> t.Iterator[tuple[str, t.Any, str]]:
    """Names and fields of limits, and how errors name them."""
    configured = configuration(app).get(LIMITS_KEY)
    with collected(errors):
        if configured is not None and not isinstance(configured, Mapping):
            raise SettingsError(
                f'{LIMITS_KEY} must be a dictionary such as {{"/rule":'
                f' {{"concurrency": 1}}}}, not {configured!r}.'
            )
    rules = list(dict.fromkeys(rule.rule for rule in app.url_map.iter_rules()))
    found = configured if isinstance(configured, Mapping) else {}
    for text, fields in found.items():
        with collected(errors):
            if text not in rules:
                close = nearest(str(text), rules)
                raise SettingsError(
                    f"{LIMITS_KEY}: the app has no rule {text!r}; did you mean"
                    f" {close!r}?"
                )
        if text in rules:
            yield text, fields, f"{LIMITS_KEY}[{text!r}]"
    for endpoint, view in app.view_functions.items():
        fields = getattr(view, LIMIT, None)
        if fields is not None:
            yield endpoint, fields, f"the limit of {endpoint!r}"


def find_limited(
    app: WSGIApplication | Flask, limits: Sequence[RouteLimit]
) -> RouteLimits | None:
    """What finds a request's limit.

    :param app: See :func:`find_limits`.
    :param limits: Its result.
    :return: ``None`` if no route has a limit.
    """
    if not limits or not is_flask(app):
        return None
    by_name = {limit.name: number for number, limit in enumerate(limits, 1)}
    numbers: dict[tuple[str, t.Any], int] = {}
    for rule in app.url_map.iter_rules():
        number = by_name.get(rule.rule)
        if number is None and hasattr(app.view_functions.get(rule.endpoint), LIMIT):
            number = by_name.get(rule.endpoint)
        if number is not None:
            numbers[_key(rule)] = number
    match = matcher(app)

    def find(method: str, target: str, host: str, websocket: bool) -> int:
        rule = match(method, target, host, websocket)
        return numbers.get(_key(rule), 0) if rule is not None else 0

    # A rule may match without its last slash, too (werkzeug's strict_slashes).
    prefixes = tuple({text.partition("<")[0].rstrip("/") for text, _ in numbers})
    return RouteLimits(limits, prefixes, find)


def _key(rule: Rule) -> tuple[str, t.Any]:
    # Rules themselves have no hash.
    return rule.rule, rule.endpoint
