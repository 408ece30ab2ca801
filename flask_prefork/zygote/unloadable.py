"""What is shown of an app that can't be loaded: what it is instead, or the traceback.

``loading.py`` calls it when ``flask.cli`` has found no app. Of the traceback only the
app's part is of use: what is above it is click's, ``flask.cli``'s and this package's.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
import typing as t
from types import TracebackType

from flask import Flask
from flask.cli import NoAppException
from flask.cli import prepare_import

from ..system.log import logger

if t.TYPE_CHECKING:
    from flask.cli import ScriptInfo

#: Who calls the app's module or its factory.
_CALLERS = ("click", "flask.cli", "importlib", "flask_prefork")
#: Where ``flask.cli`` looks for an app without ``--app``, and by which names.
_FILES = ("wsgi.py", "app.py")
_NAMES = ("app", "application")


def cut(error: BaseException) -> BaseException:
    """Take the callers' frames off an error's traceback.

    :param error: What loading the app has raised.
    :return: The same error.
    """
    return error.with_traceback(_apps_part(error.__traceback__))


def _apps_part(trace: TracebackType | None) -> TracebackType | None:
    """What of a traceback begins with the app's first frame.

    It is nothing if the app's module can't be compiled: the error says where.
    """
    found, is_reached = trace, False
    while found is not None:
        module = str(found.tb_frame.f_globals.get("__name__", ""))
        is_caller = any(
            module == one or module.startswith(f"{one}.") for one in _CALLERS
        )
        if is_reached and not is_caller:
            return found
        is_reached = is_reached or is_caller
        found = found.tb_next
    return None


def show(error: BaseException, generation: int = 1) -> None:
    """Tell an error as Python would, without the callers' frames.

    Monitoring agents learn of it by ``sys.excepthook``.

    :param generation: Whose app it is. Whoever has typed the command sees that of the
        first on standard error, and later ones are logged.
    """
    trace = cut(error).__traceback__
    if generation > 1:
        found = (type(error), error, trace)
        logger.error("The app can't be loaded:", exc_info=found)
    if generation == 1 or inspect.unwrap(sys.excepthook) is not sys.__excepthook__:
        sys.excepthook(type(error), error, trace)


def explain(info: ScriptInfo, error: NoAppException) -> NoAppException:
    """Say what was found instead of a Flask app.

    :param info: What the command knows of the app.
    :param error: What ``flask.cli`` has raised.
    :return: The same, if there is nothing that could be an app of another kind. A
        traceback that its text quotes is cut.
    """
    context = error.__context__
    first, quotes, _ = str(error).partition(":\n\nTraceback ")
    if quotes and isinstance(context, ImportError):
        told = "".join(traceback.format_exception(cut(context)))
        return NoAppException(f"{first}:\n\n{told}")
    found = _found(info.app_import_path)
    if found is None:
        return error
    return NoAppException(_kind_of_app(*found))


def _kind_of_app(name: str, value: t.Any) -> str:
    kind = type(value)
    is_function = inspect.isfunction(value)
    what = "function" if is_function else f"{kind.__module__}.{kind.__qualname__}"
    module, _, attribute = name.partition(":")
    if _is_async(value):
        return (
            f"{name!r} is an ASGI app ({what}) and no Flask app."
            " flask prefork-run serves Flask apps, by WSGI; use an ASGI server for it."
        )
    inner = _wrapped(value)
    if inner is not None:
        return (
            f"{name!r} is a middleware ({what}) and no Flask app. flask"
            " prefork-run needs the Flask app, whose configuration it reads: give that"
            f" one, and let {kind.__qualname__} wrap app.wsgi_app, as in"
            f" app.wsgi_app = {kind.__qualname__}(app.wsgi_app)."
        )
    return (
        f"{name!r} is a plain WSGI callable ({what}) and no Flask app. flask"
        " prefork-run needs a Flask app, whose configuration it reads. Make one that"
        f" only calls it: from {module} import {attribute}; app = Flask(__name__);"
        f" app.wsgi_app = {attribute}. Or mount it beside the app's views by werkzeug's"
        " DispatcherMiddleware."
    )


def _found(app: str | None) -> tuple[str, t.Any] | None:
    """What may be an app of another kind, and its import name.

    :param app: What ``--app`` says.
    """
    parts = re.split(r":(?![\\/])", app, maxsplit=1) if app else []
    attribute = parts[1].strip() if len(parts) > 1 else ""
    if attribute and not attribute.isidentifier():
        # What a call has returned isn't known.
        return None
    for name in [parts[0]] if parts else _FILES:
        module = sys.modules.get(prepare_import(name))
        for one in [attribute] if attribute else _NAMES:
            value = getattr(module, one, None)
            if module is not None and _is_callable_app(value):
                return f"{module.__name__}:{one}", value
    return None


def _is_callable_app(value: t.Any) -> bool:
    """Whether a server could call it: with two arguments, or as an ASGI app."""
    if not callable(value) or isinstance(value, Flask | type):
        return False
    if _is_async(value):
        return True
    try:
        signature = inspect.signature(value)
        signature.bind({}, None)
    except (TypeError, ValueError):
        return False
    # A factory may take two arguments as well.
    first, second = [*signature.parameters, "", ""][:2]
    return not inspect.isfunction(value) or "env" in first or "start" in second


def _is_async(value: t.Any) -> bool:
    """Whether it is called as ASGI has it."""
    return any(map(inspect.iscoroutinefunction, (value, type(value).__call__)))


def _wrapped(value: t.Any) -> Flask | None:
    """The Flask app that a middleware calls, if it has kept one."""
    seen = 0
    while seen < 10 and not inspect.isroutine(value):
        seen += 1
        held = list(getattr(value, "__dict__", {}).values())
        for one in held:
            owner = getattr(one, "__self__", one)
            if isinstance(owner, Flask):
                return owner
        inner = [one for one in held if _is_callable_app(one)]
        if not inner:
            return None
        value = inner[0]
    return None
