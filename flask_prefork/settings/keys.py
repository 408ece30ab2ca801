"""How a setting is spelled: in ``app.config``, as a variable, as an option; and typos.

Imported by every ``flask`` command, as ``table.py`` is.
"""

from __future__ import annotations

import typing as t

from .spec import SettingsError

_PREFIX = "PREFORK_"
_VARIABLE_PREFIX = "FLASK_PREFORK_RUN_"

#: The limits of routes: the one key that is no setting's.
LIMITS_KEY = "PREFORK_LIMITS"

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


def variable_name(name: str) -> str:
    """The environment's spelling: ``min_idle`` is ``FLASK_PREFORK_RUN_MIN_IDLE``."""
    return _VARIABLE_PREFIX + name.upper()


def check(config: t.Iterable[str], names: t.Collection[str]) -> None:
    """Find what is meant for this server and isn't known: typos, most likely.

    :param config: All keys of the app's configuration.
    :param names: The settings.
    :raises SettingsError: In a sentence for each typo.
    """
    keys = [*(config_key(name) for name in names), LIMITS_KEY]
    typos = [
        _typo(key, keys)
        for key in config
        if key.startswith(_PREFIX) and key not in keys and not _is_variable(key, names)
    ]
    if typos:
        raise SettingsError(" ".join(typos))


def check_variables(variables: t.Iterable[str], names: t.Collection[str]) -> None:
    """Find typos among the command's variables.

    :param variables: All of the environment.
    :param names: The settings.
    :raises SettingsError: In a sentence for each typo.
    """
    known = [variable_name(name) for name in (*names, *BORROWED)]
    # What from_prefixed_env() makes a key of isn't the command's.
    known += [f"FLASK_{config_key(name)}" for name in names]
    typos = [
        f"There is no {variable!r}; did you mean {nearest(variable, known)!r}?"
        for variable in sorted(variables)
        if variable.startswith(_VARIABLE_PREFIX) and variable not in known
    ]
    if typos:
        raise SettingsError(" ".join(typos))


def _is_variable(key: str, names: t.Collection[str]) -> bool:
    """Whether this is a variable of one of the commands'.

    ``app.config.from_prefixed_env()`` takes all that begin with ``FLASK_``.
    """
    name = key.removeprefix(_PREFIX + "RUN_")
    known = name.lower() in (*names, *BORROWED)
    return (name != key and known) or key.startswith(_PREFIX + "STATUS_")


def _typo(key: str, keys: list[str]) -> str:
    name = key.removeprefix(_PREFIX).lower()
    if name in BORROWED:
        return too_late(name)
    return f"There is no {key!r}; did you mean {nearest(key, keys)!r}?"


def nearest(word: str, words: list[str]) -> str:
    """The word that was most likely meant, for an error."""
    from difflib import get_close_matches

    (nearest,) = get_close_matches(word, words, n=1, cutoff=0.0)
    return nearest


def too_late(name: str) -> str:
    """The error for a key that the app can't say."""
    return (
        f"{config_key(name)} comes too late in the app's configuration; give"
        f" {option_name(name)} on the command line."
    )
