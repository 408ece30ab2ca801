"""How a setting is spelled on the command line and in ``app.config``; and slips.

Imported by every ``flask`` command, as ``settings.py`` is.
"""

from __future__ import annotations

import typing as t

from .row import SettingsError

_PREFIX = "PREFORK_"

#: Options of `flask run` that make sense here, and the variables of its that
#: are read where ours aren't set. They have no keys.
BORROWED = {
    "debug": None,
    "host": "FLASK_RUN_HOST",
    "port": "FLASK_RUN_PORT",
    "cert": None,
    "key": None,
    "reload": None,
    "debugger": None,
    "extra_files": None,
    "exclude_patterns": None,
}


def option_name(name: str) -> str:
    """The command line's spelling: ``min_idle`` is ``--min-idle``."""
    return "--" + name.replace("_", "-")


def config_key(name: str) -> str:
    """The configuration's spelling: ``min_idle`` is ``PREFORK_MIN_IDLE``."""
    return _PREFIX + name.upper()


def check(config: t.Iterable[str], names: t.Collection[str]) -> None:
    """Find what is meant for this server and isn't known: slips, most likely.

    :param config: All keys of the app's configuration.
    :param names: The settings.
    :raises SettingsError: In a sentence for each slip.
    """
    keys = [config_key(name) for name in names]
    slips = [
        _slip(key, keys)
        for key in config
        if key.startswith(_PREFIX) and key not in keys and not _is_variable(key, names)
    ]
    if slips:
        raise SettingsError(" ".join(slips))


def _is_variable(key: str, names: t.Collection[str]) -> bool:
    """Whether this is a variable of one of the commands'.

    ``app.config.from_prefixed_env()`` takes all that begin with ``FLASK_``.
    """
    name = key.removeprefix(_PREFIX + "RUN_")
    known = name.lower() in (*names, *BORROWED)
    return (name != key and known) or key.startswith(_PREFIX + "STATUS_")


def _slip(key: str, keys: list[str]) -> str:
    name = key.removeprefix(_PREFIX).lower()
    if name in BORROWED:
        return too_late(name)
    from difflib import get_close_matches

    (nearest,) = get_close_matches(key, keys, n=1, cutoff=0.0)
    return f"There is no {key!r}; did you mean {nearest!r}?"


def too_late(name: str) -> str:
    """The error for a key that the app can't say."""
    return (
        f"{config_key(name)} comes too late in the app's configuration; give"
        f" {option_name(name)} on the command line."
    )
