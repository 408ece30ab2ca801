"""The extension: registration, defaults of the configuration, decorators."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path

import pytest
from flask import Flask

import flask_prefork
from flask_prefork import Prefork
from flask_prefork.settings.keys import BORROWED
from flask_prefork.settings.keys import check_unread
from flask_prefork.settings.keys import check_variables
from flask_prefork.settings.keys import variable_name
from flask_prefork.settings.table import config_key
from flask_prefork.settings.table import option_name
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import ROWS
from flask_prefork.settings.table import SettingsError
from flask_prefork.zygote.hooks import configuration
from flask_prefork.zygote.hooks import Hooks


def test_the_package_exports_what_it_says() -> None:
    for name in flask_prefork.__all__:
        assert hasattr(flask_prefork, name)


@pytest.mark.parametrize("at_once", [True, False])
def test_registration(at_once: bool) -> None:
    app = Flask(__name__)
    if at_once:
        prefork = Prefork(app)
    else:
        prefork = Prefork()
        prefork.init_app(app)
    assert app.extensions["prefork"] is prefork


def test_an_app_has_one_extension() -> None:
    app = Flask(__name__)
    prefork = Prefork(app)
    for another in (prefork, Prefork()):
        with pytest.raises(RuntimeError, match="already been registered"):
            another.init_app(app)
    assert app.extensions["prefork"] is prefork


def test_defaults_are_those_of_the_table() -> None:
    app = Flask(__name__)
    app.config["PREFORK_MIN_IDLE"] = 7
    Prefork(app)
    assert app.config["PREFORK_MIN_IDLE"] == 7
    for name, row in ROWS.items():
        key = config_key(name)
        if row.default is None:
            # What follows from other settings isn't fixed here.
            assert key not in app.config
        elif name != "min_idle":
            assert app.config[key] == row.default


def test_defaults_are_not_held_against_what_was_said() -> None:
    app = Flask(__name__)
    Prefork(app)
    assert resolve({"max_workers": 1}, configuration(app)).min_idle == 1
    defaults = {"timeout": 0.0}
    assert resolve({}, configuration(app), defaults).timeout == 0
    assert resolve({}, configuration(app)) == resolve({})


@pytest.mark.parametrize("first", [True, False])
def test_what_the_app_says_counts(first: bool) -> None:
    app = Flask(__name__)
    if first:
        app.config["PREFORK_MIN_IDLE"] = 5
    Prefork(app)
    app.config["PREFORK_MIN_IDLE"] = 5
    assert resolve({}, configuration(app)).min_idle == 5
    with pytest.raises(SettingsError, match="PREFORK_MIN_IDLE"):
        resolve({"max_workers": 4}, configuration(app))


def test_a_value_that_equals_the_default_counts_if_it_was_said() -> None:
    app = Flask(__name__)
    app.config["PREFORK_TIMEOUT"] = ROWS["timeout"].default
    Prefork(app)
    settings = resolve({}, configuration(app), {"timeout": 0.0})
    assert settings.timeout == ROWS["timeout"].default


def test_several_apps() -> None:
    prefork = Prefork()
    one, other = Flask("one"), Flask("other")
    other.config["PREFORK_MIN_IDLE"] = 3
    prefork.init_app(one)
    prefork.init_app(other)
    assert resolve({}, configuration(one)).min_idle == 2
    assert resolve({}, configuration(other)).min_idle == 3
    assert one.extensions["prefork"] is other.extensions["prefork"]


def test_an_extension_keeps_no_app_alive() -> None:
    prefork = Prefork()
    app = Flask(__name__)
    prefork.init_app(app)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


def test_an_app_without_the_extension() -> None:
    app = Flask(__name__)
    assert configuration(app) is app.config
    app.extensions["prefork"] = "somebody else's"
    assert configuration(app) is app.config


@pytest.mark.parametrize("kind", vars(Hooks()))
def test_decorators_return_the_function(kind: str) -> None:
    prefork = Prefork()

    def hook() -> None: ...

    assert getattr(prefork, kind)(hook) is hook
    assert getattr(prefork.hooks, kind) == [hook]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("PREFORK_MIN_IDEL", "PREFORK_MIN_IDLE"),
        ("PREFORK_MAX_WORKER", "PREFORK_MAX_WORKERS"),
        ("PREFORK_WORKERS_MAX", None),
        ("PREFORK_", None),
        ("PREFORK_ACCESSLOG", "PREFORK_ACCESS_LOG"),
    ],
)
def test_unknown_key_names_the_nearest(key: str, nearest: str | None) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve({}, {key: 1})
    told = str(caught.value)
    assert repr(key) in told
    named = [known for known in map(config_key, ROWS) if repr(known) in told]
    assert len(named) == 1
    assert nearest in (None, *named)


def test_all_slips_are_told_at_once() -> None:
    config = {"PREFORK_MIN_IDEL": 1, "PREFORK_TIMEOUT": 1, "PREFORK_TIMEOT": 1}
    with pytest.raises(SettingsError) as caught:
        resolve({}, config)
    assert str(caught.value) == (
        "There is no key 'PREFORK_MIN_IDEL'; did you mean 'PREFORK_MIN_IDLE'?"
        " There is no key 'PREFORK_TIMEOT'; did you mean 'PREFORK_TIMEOUT'?"
    )


@pytest.mark.parametrize("name", BORROWED)
def test_what_only_the_command_can_say(name: str) -> None:
    """Its nearest key would be another thing altogether."""
    with pytest.raises(SettingsError) as caught:
        resolve({}, {config_key(name): 1})
    told = str(caught.value)
    assert told.startswith(f"{config_key(name)} comes too late")
    assert f"give {option_name(name)} on the command line." in told


def test_the_commands_variables_are_no_slips(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*ROWS, *BORROWED]
    for name in names:
        monkeypatch.setenv(f"FLASK_PREFORK_RUN_{name.upper()}", "1")
    monkeypatch.setenv("FLASK_PREFORK_STATUS_ADMIN", "1")
    app = Flask(__name__)
    app.config.from_prefixed_env()
    assert len([key for key in app.config if key.startswith("PREFORK_")]) > len(names)
    resolve({}, configuration(app))


def test_keys_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_PREFORK_RUN_LENGTH", "3")
    monkeypatch.setenv("FLASK_PREFORK_RUN_MIN_IDEL", "3")
    app = Flask(__name__)
    app.config.from_prefixed_env()
    with pytest.raises(SettingsError, match="PREFORK_RUN_MIN_IDEL"):
        resolve({}, configuration(app))
    del app.config["PREFORK_RUN_MIN_IDEL"]
    assert resolve({}, configuration(app)).run_length == 3


def unread(
    variables: dict[str, str], config: dict[str, object], *defaults: str
) -> list[str]:
    return check_unread(variables, config, defaults, ROWS)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("FLASK_PREFORK_MIN_IDLE", "did you mean 'FLASK_PREFORK_RUN_MIN_IDLE'?"),
        ("FLASK_PREFORK_MIN_IDEL", "did you mean 'FLASK_PREFORK_RUN_MIN_IDLE'?"),
        ("FLASK_PREFORK_PORT", "did you mean 'FLASK_PREFORK_RUN_PORT'?"),
        ("FLASK_PREFORK_RUN_LENGTH", "did you mean 'FLASK_PREFORK_RUN_RUN_LENGTH'?"),
        ("FLASK_PREFORK_LIMITS__x", "set PREFORK_LIMITS in its configuration."),
    ],
)
def test_variables_that_nobody_reads(variable: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        unread({variable: "3"}, {})
    text = str(caught.value)
    assert text.startswith(f"{variable} has no effect, because the app doesn't call ")
    assert text.endswith(meant)
    # from_prefixed_env() has made a key of it.
    key = variable.removeprefix("FLASK_").partition("__")[0]
    assert unread({variable: "3"}, {key: 3}) == []


def test_a_variable_beside_the_extensions_default() -> None:
    """It can't be told from one that was read, if it says the same."""
    config = {"PREFORK_IDLE_TIMEOUT": 10.0}
    variable, key = "FLASK_PREFORK_IDLE_TIMEOUT", "PREFORK_IDLE_TIMEOUT"
    assert unread({variable: "10"}, dict(config), key) == []
    with pytest.raises(SettingsError):
        unread({variable: "11"}, dict(config), key)


def test_variables_that_are_called_as_keys() -> None:
    (told,) = unread({"PREFORK_MIN_IDLE": "3"}, {})
    assert told.startswith("The environment has PREFORK_MIN_IDLE, and the app's ")
    assert told.endswith("the variable is called FLASK_PREFORK_RUN_MIN_IDLE.")
    # The app reads it, or it is another program's.
    assert unread({"PREFORK_MIN_IDLE": "3"}, {"PREFORK_MIN_IDLE": 3}) == []
    assert unread({"PREFORK_HOME": "/"}, {}) == []


def test_a_doubtful_variable_beside_a_wrong_one() -> None:
    with pytest.raises(SettingsError) as caught:
        unread({"PREFORK_MIN_IDLE": "3", "FLASK_PREFORK_MAX_IDLE": "4"}, {})
    wrong, doubtful = caught.value.sentences
    assert wrong.startswith("FLASK_PREFORK_MAX_IDLE has no effect")
    assert doubtful.startswith("The environment has PREFORK_MIN_IDLE")


def test_variables_of_the_commands_and_of_the_server_itself() -> None:
    good = {variable_name(name): "1" for name in (*ROWS, *BORROWED)}
    good |= {"FLASK_PREFORK_STATUS_ADMIN": "1", "FLASK_RUN_PORT": "1"}
    source = Path(flask_prefork.__file__).parent
    own = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r'"(FLASK_PREFORK_[A-Z]+)"', path.read_text("utf-8"))
    }
    assert "FLASK_PREFORK_ZYGOTE" in own
    assert unread({**good, **dict.fromkeys(own, "1")}, {}) == []


def test_slips_in_variables() -> None:
    names = [*ROWS, *BORROWED]
    good = {variable_name(name) for name in names}
    # Keys by from_prefixed_env(), the other command's, other programs'.
    good |= {"FLASK_PREFORK_RUN_LENGTH", "FLASK_PREFORK_STATUS_ADMIN", "PREFORK_X"}
    check_variables(good, ROWS)
    with pytest.raises(SettingsError) as caught:
        check_variables({*good, "FLASK_PREFORK_RUN_MIN_IDEL"}, ROWS)
    assert str(caught.value) == (
        "There is no variable 'FLASK_PREFORK_RUN_MIN_IDEL';"
        " did you mean 'FLASK_PREFORK_RUN_MIN_IDLE'?"
    )


def test_stream_body() -> None:
    app = Flask(__name__)
    prefork = Prefork(app)

    def view() -> str:
        return ""

    assert prefork.stream_body(view) is view
    prefork.stream_body("files.upload")
    assert prefork.streamed == {"files.upload"}
    assert view() == ""
