"""How a setting is spelled: in ``app.config``, as a variable, as an option; and typos.

Imported by every ``flask`` command, as ``table.py`` is.
"""

from __future__ import annotations

import typing as t

from .spec import SettingsError

_PREFIX = "PREFORK_"
_VARIABLE_PREFIX = "FLASK_PREFORK_RUN_"
#: Of the other command.
_STATUS_PREFIX = "FLASK_PREFORK_STATUS_"
#: What processes of the server leave to each other, without ``FLASK_``.
_OWN = ("PREFORK_ZYGOTE", "PREFORK_OUTPUT", "PREFORK_LOG", "PREFORK_FAULTS")

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
        raise SettingsError(*typos)


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
        f"There is no variable {variable!r}; did you mean {nearest(variable, known)!r}?"
        for variable in sorted(variables)
        if variable.startswith(_VARIABLE_PREFIX) and variable not in known
    ]
    if typos:
        raise SettingsError(*typos)


def check_unread(
    variables: t.Mapping[str, str],
    config: t.Mapping[str, t.Any],
    defaults: t.Collection[str],
    names: t.Collection[str],
) -> list[str]:
    """Find variables that look like this server's, and that nobody has read.

    ``app.config.from_prefixed_env()`` makes the key ``PREFORK_MIN_IDLE`` from
    ``FLASK_PREFORK_MIN_IDLE``. Where the app doesn't call it, that has no effect.
    ``PREFORK_MIN_IDLE`` may be another program's, or the app may read it by itself.

    :param variables: All of the environment.
    :param config: The app's configuration.
    :param defaults: Keys of it that have the extension's defaults.
    :param names: The settings.
    :return: What to warn of, in a sentence each.
    :raises SettingsError: In a sentence for each, if one begins as this server's.
    """
    spelled = {config_key(name): variable_name(name) for name in (*names, *BORROWED)}
    wrong, doubtful = [], []
    for variable in sorted(variables):
        # from_prefixed_env() makes a dictionary of what is before it.
        key = variable.removeprefix("FLASK_").partition("__")[0]
        if not key.startswith(_PREFIX) or key in _OWN:
            continue
        if key in config and (
            key not in defaults or _reads_as(variables[variable], config[key])
        ):
            continue
        is_commands = variable.startswith((_VARIABLE_PREFIX, _STATUS_PREFIX))
        # A setting's own name may begin as the commands' variables.
        if is_commands and key not in spelled:
            continue
        if not variable.startswith("FLASK_"):
            if key in spelled:
                doubtful.append(
                    f"The environment has {variable}, and the app's configuration"
                    f" doesn't, so it has no effect here; the variable is called"
                    f" {spelled[key]}."
                )
        elif key == LIMITS_KEY:
            wrong.append(
                f"{variable} has no effect, because the app doesn't call"
                f" app.config.from_prefixed_env(); set {key} in its configuration."
            )
        else:
            meant = spelled.get(key) or nearest(
                variable.replace("FLASK_PREFORK_", _VARIABLE_PREFIX),
                list(spelled.values()),
            )
            wrong.append(
                f"{variable} has no effect, because the app doesn't call"
                f" app.config.from_prefixed_env(); did you mean {meant!r}?"
            )
    if wrong:
        raise SettingsError(*wrong, *doubtful)
    return doubtful


def _reads_as(text: str, value: t.Any) -> bool:
    """Whether ``from_prefixed_env()`` makes this value of a variable."""
    import json

    try:
        return bool(json.loads(text) == value)
    except ValueError:
        return bool(text == value)


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
    return f"There is no key {key!r}; did you mean {nearest(key, keys)!r}?"


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
