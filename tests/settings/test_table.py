"""The table of settings and how its layers are put together."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_prefork.settings.spec import BYTES
from flask_prefork.settings.spec import GROUPS
from flask_prefork.settings.spec import SECONDS
from flask_prefork.settings.table import config_key
from flask_prefork.settings.table import examine
from flask_prefork.settings.table import MAX_SLOTS
from flask_prefork.settings.table import option_name
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import ROWS
from flask_prefork.settings.table import Settings
from flask_prefork.settings.table import SettingsError
from flask_prefork.settings.table import SettingSpec
from flask_prefork.system import smaps

NUMBERS = [name for name, row in ROWS.items() if row.kind in (int, float)]
WORDS = [
    name
    for name, row in ROWS.items()
    if row.kind is str and not row.early and not row.size
]
SIZES = [name for name, row in ROWS.items() if row.size]
EARLY = [name for name, row in ROWS.items() if row.early]
SWITCHES = [name for name, row in ROWS.items() if row.kind is bool]


def message(explicit: dict[str, t.Any], config: dict[str, t.Any] | None = None) -> str:
    """The error that these settings end in, which is one line."""
    with pytest.raises(SettingsError) as caught:
        resolve(explicit, config)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


# The table


@pytest.mark.parametrize("name", ROWS)
def test_row_tells_the_user_all(name: str) -> None:
    row = ROWS[name]
    assert row.help.endswith(".")
    assert row.shown_default not in ("", "None"), "say in default_text what None means"
    assert row.kind in (bool, int, float, str)
    assert bool(row.unit) == (name in NUMBERS), "numbers have a unit, others have none"
    assert bool(row.shown_metavar) == (row.kind is not bool)


@pytest.mark.parametrize("name", ROWS)
def test_row_is_in_a_group_of_the_help(name: str) -> None:
    group = ROWS[name].group
    assert group in GROUPS, f'give {name} a group="...", one of {", ".join(GROUPS)}'


def test_every_time_and_every_size_has_its_unit() -> None:
    """By the unit it is known what may be written."""
    # What takes a fraction is a time, but for the rate.
    times = {name for name in NUMBERS if ROWS[name].kind is float} - {"min_data_rate"}
    assert times == {name for name in NUMBERS if ROWS[name].unit == SECONDS}, (
        'a time is a float with unit="seconds"'
    )
    sizes = {name for name in NUMBERS if ROWS[name].unit in BYTES}
    assert sizes == {
        "limit_request_body",
        "limit_request_field_size",
        "limit_request_line",
        "min_data_rate",
    }, "name a new one here: by its unit it may be given as 64K or 10M"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("idle_timeout", "500ms", 0.5),
        ("idle_timeout", "5m", 300.0),
        ("timeout", "1h", 3600.0),
        ("timeout", "1.5", 1.5),
        ("limit_request_body", "10M", 10 * 2**20),
        ("limit_request_body", "100", 100),
        ("limit_request_line", "8K", 8192),
        ("min_data_rate", "1K", 1024.0),
        ("min_data_rate", "0.5", 0.5),
    ],
)
def test_numbers_with_units(name: str, text: str, value: float) -> None:
    for found in (resolve({name: text}), resolve({}, {config_key(name): text})):
        assert getattr(found, name) == value
        assert type(getattr(found, name)) is ROWS[name].kind


@pytest.mark.parametrize("name", NUMBERS)
def test_number_has_a_bound(name: str) -> None:
    row = ROWS[name]
    assert row.least is not None
    assert row.most is None or row.least <= row.most


@pytest.mark.parametrize("name", ROWS)
def test_default_is_what_the_table_allows(name: str) -> None:
    row = ROWS[name]
    assert row.convert(row.default, name) == row.default
    if row.choices:
        assert row.default in row.choices


def test_names() -> None:
    assert option_name("max_requests_jitter") == "--max-requests-jitter"
    assert config_key("max_requests_jitter") == "PREFORK_MAX_REQUESTS_JITTER"


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (SettingSpec("", int, 2), "2"),
        (SettingSpec("", float, 10.0), "10"),
        (SettingSpec("", float, 0.5), "0.5"),
        (SettingSpec("", float, 0.5, unit="seconds"), "0.5 s"),
        (SettingSpec("", float, 0.0, unit="seconds"), "0"),
        (SettingSpec("", int, 2**20, unit="bytes"), "1048576 bytes"),
        (SettingSpec("", bool, True), "on"),
        (SettingSpec("", bool, False), "off"),
        (SettingSpec("", str, "ordered"), "ordered"),
        (SettingSpec("", int, default_text="as many as fit"), "as many as fit"),
    ],
)
def test_shown_default(row: SettingSpec, shown: str) -> None:
    assert row.shown_default == shown


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (SettingSpec("", int), "N"),
        (SettingSpec("", float, unit="seconds"), "SECONDS"),
        (SettingSpec("", int, unit="bytes"), "SIZE"),
        (SettingSpec("", str, size=True, words=("auto",)), "SIZE|auto"),
        (SettingSpec("", str, choices=("a", "b")), "a|b"),
        (SettingSpec("", str), "TEXT"),
        (SettingSpec("", str, metavar="FILE"), "FILE"),
        (SettingSpec("", bool), ""),
    ],
)
def test_shown_metavar(row: SettingSpec, shown: str) -> None:
    assert row.shown_metavar == shown


# All errors


def test_all_errors_are_found() -> None:
    found = examine(
        {"timeout": "soon", "min_idle": 6, "max_idle": 5, "max_workers": 3},
        {"PREFORK_KEEP_ALIVE": -1, "PREFORK_MIN_IDEL": 1, "PREFORK_USER": "x"},
    )
    told = [sentence for error in found.errors for sentence in error.sentences]
    assert [sentence.split()[0] for sentence in told] == [
        "There",  # is no PREFORK_MIN_IDEL
        "--timeout",
        "PREFORK_KEEP_ALIVE",
        "PREFORK_USER",
        "--min-idle",  # and max-idle
        "--min-idle",  # and max-workers
    ]
    # Defaults are in place of what is wrong.
    assert (found.settings.timeout, found.settings.keep_alive) == (60.0, 15.0)
    assert "timeout" not in found.given


def test_what_was_given_is_known_by_its_source() -> None:
    found = examine(
        {"min_idle": 3, "max_idle": 4},
        {"PREFORK_TIMEOUT": 7},
        sources={"max_idle": "FLASK_PREFORK_RUN_MAX_IDLE"},
    )
    assert not found.errors
    assert found.given == {
        "min_idle": "--min-idle",
        "max_idle": "FLASK_PREFORK_RUN_MAX_IDLE",
        "timeout": "PREFORK_TIMEOUT",
    }


# Precedence


def test_defaults() -> None:
    settings = resolve({})
    assert (settings.min_idle, settings.max_idle) == (2, 4)
    assert (settings.min_workers, settings.max_workers) == (2, 40)
    assert settings.dispatch == "ordered"
    assert settings == resolve({}, {})


def test_the_accept_queue_is_as_long_as_the_kernel_lets_it_be() -> None:
    path = Path("/proc/sys/net/core/somaxconn")
    most = int(path.read_text()) if path.exists() else 2**31 - 1
    assert resolve({}).backlog == most
    assert resolve({"backlog": 7}).backlog == 7


def test_explicit_is_above_config_is_above_default() -> None:
    config = {"PREFORK_MIN_IDLE": 5, "PREFORK_MAX_WORKERS": 9, "MIN_IDLE": 7}
    settings = resolve({"min_idle": 3, "max_workers": None}, config)
    assert settings.min_idle == 3
    assert settings.max_workers == 9
    assert settings.run_length == 64


def test_other_defaults_are_above_the_tables() -> None:
    defaults = {"timeout": 0.0, "run_length": 8}
    settings = resolve({"run_length": 9}, {}, defaults)
    assert settings.timeout == 0
    assert settings.run_length == 9
    assert resolve({}, {"PREFORK_TIMEOUT": 7}, defaults).timeout == 7


@pytest.mark.parametrize("name", EARLY)
def test_what_the_app_says_too_late(name: str) -> None:
    text = message({}, {config_key(name): "x"})
    assert config_key(name) in text and f"give {option_name(name)} " in text
    # It was said in time, and the app only repeats it.
    value = (ROWS[name].choices or ("y",))[0]
    settings = resolve({name: value}, {config_key(name): "x"})
    assert getattr(settings, name) == value


def test_none_in_config_is_not_set() -> None:
    assert resolve({}, {"PREFORK_MIN_IDLE": None}) == resolve({})


def test_false_and_zero_are_set() -> None:
    config = {"PREFORK_ACCESS_LOG": True, "PREFORK_GRACEFUL_TIMEOUT": 5}
    settings = resolve({"access_log": False, "graceful_timeout": 0.0}, config)
    assert settings.access_log is False
    assert settings.graceful_timeout == 0


# Values of the configuration


@pytest.mark.parametrize("value", ["3", 3, 3.0])
def test_number_may_come_as_a_string(value: object) -> None:
    settings = resolve({}, {"PREFORK_MIN_IDLE": value, "PREFORK_IDLE_TIMEOUT": value})
    assert settings.min_idle == 3
    assert type(settings.min_idle) is int
    assert settings.idle_timeout == 3.0
    assert type(settings.idle_timeout) is float


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["", "many", "0x10", True, b"3", [3], float("nan"), "nan"], ids=repr
)
def test_what_is_no_number(name: str, value: object) -> None:
    text = message({}, {config_key(name): value})
    row = ROWS[name]
    what = "a whole number" if row.kind is int else "a number"
    if row.unit == "seconds":
        what = "a number of seconds, or a time such as 500ms, 30s, 5m or 1h"
    elif row.unit in BYTES:
        what = f"a number of {row.unit}, or a size such as 64K or 10M"
    assert text == f"{config_key(name)} must be {what}, not {value!r}."


@pytest.mark.parametrize("value", [1.5, "1.5", float("inf")], ids=repr)
def test_what_is_no_whole_number(value: object) -> None:
    text = message({}, {"PREFORK_MIN_IDLE": value})
    assert text == f"PREFORK_MIN_IDLE must be a whole number, not {value!r}."


@pytest.mark.parametrize("name", NUMBERS)
def test_number_out_of_bounds(name: str) -> None:
    row = ROWS[name]
    assert row.least is not None
    below = message({}, {config_key(name): row.least - 1})
    unit = {"seconds": " s", "bytes": " bytes"}.get(row.unit, "")
    bound = "{:,.0f}" if row.unit == "bytes" else "{:g}"
    least = bound.format(row.least) + unit
    assert f"{config_key(name)} must be at least {least}, not " in below
    if row.most is not None:
        above = message({}, {config_key(name): row.most + 1})
        most = bound.format(row.most) + unit
        assert f"{config_key(name)} must be at most {most}, not " in above


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["yes", 1, 0, ""], ids=repr)
def test_what_is_no_switch(name: str, value: object) -> None:
    text = message({}, {config_key(name): value})
    assert text == f"{config_key(name)} must be True or False, not {value!r}."


@pytest.mark.parametrize("name", WORDS)
def test_what_is_no_string(name: str) -> None:
    text = message({}, {config_key(name): 7})
    shown = "int" if ROWS[name].secret else "7"
    assert text == f"{config_key(name)} must be a string, not {shown}."


def test_the_token_is_a_secret() -> None:
    assert [name for name, row in ROWS.items() if row.secret] == ["admin_token"]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", ["200M", 2**28, "0", 0], ids=repr)
def test_sizes(name: str, value: object) -> None:
    settings = resolve({}, {config_key(name): value})
    assert getattr(settings, name) == str(value)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("5 parsecs", "a size such as 200M or 1G, or a number of bytes"),
        (-1, "a size such as 200M or 1G, or a number of bytes"),
        (2.5e9, "a size such as 200M, or a number of bytes"),
        (True, "a size such as 200M, or a number of bytes"),
        (200, "0 or at least 1M"),
    ],
    ids=repr,
)
def test_what_is_no_size(value: object, wrong: str) -> None:
    text = message({}, {"PREFORK_MAX_WORKER_MEMORY": value})
    assert text == f"PREFORK_MAX_WORKER_MEMORY must be {wrong}, not {value!r}."
    text = message({}, {"PREFORK_MEMORY_BUDGET": value})
    assert text == f"PREFORK_MEMORY_BUDGET must be {wrong}, or 'auto', not {value!r}."


def test_a_budget_that_is_to_be_found_out() -> None:
    assert resolve({"memory_budget": "auto"}).memory_budget == "auto"
    assert "--max-worker-memory" in message({"max_worker_memory": "auto"})


@pytest.mark.parametrize("name", ["max_worker_memory", "memory_budget"])
def test_a_system_that_does_not_tell_of_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smaps, "read", lambda: None)
    assert message({name: "200M"}) == (
        f"{option_name(name)} needs /proc/self/smaps_rollup, which this system doesn't"
        " have; Linux does since 4.14."
    )
    resolve({name: "0"})
    resolve({})


@pytest.mark.parametrize("name", ["buffer_body", "buffer_response"])
def test_a_buffer_above_the_limit_of_all(name: str) -> None:
    option = option_name(name)
    assert message({name: "2G", "buffer_total": "512M"}) == (
        f"{option} (2G) is above --buffer-total (512M), which all buffers share; give a"
        f" {option} of 512M or less, or a --buffer-total of 2G or more."
    )
    assert getattr(resolve({name: "2G", "buffer_total": "2048M"}), name) == "2G"
    assert getattr(resolve({name: "2G", "buffer_total": "0"}), name) == "2G"


def test_defaults_of_buffers_adapt_to_each_other() -> None:
    found = resolve({})
    assert (found.buffer_body, found.buffer_response) == ("64M", "64M")
    assert found.buffer_total == "1G"
    found = resolve({"buffer_total": "10M"})
    assert (found.buffer_body, found.buffer_response) == ("10M", "10M")
    found = resolve({"buffer_total": "10M", "buffer_body": "0"})
    assert (found.buffer_body, found.buffer_response) == ("0", "10M")
    assert resolve({"buffer_body": "2G"}).buffer_total == "2G"
    assert resolve({"buffer_body": "5M"}).buffer_total == "1G"


def test_what_is_no_choice() -> None:
    text = message({}, {"PREFORK_DISPATCH": "random"})
    assert text == "PREFORK_DISPATCH must be one of ordered, blocking, not 'random'."


@given(
    st.sampled_from(list(ROWS)),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.lists(st.integers()),
    ),
)
def test_any_value_is_taken_or_refused_by_name(name: str, value: object) -> None:
    key = config_key(name)
    try:
        settings = resolve({}, {key: value})
    except SettingsError as e:
        assert key in str(e)
        return
    kept = getattr(settings, name)
    assert kept is None or isinstance(kept, ROWS[name].kind)


# What can't be together


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("min_idle", "max_idle"),
        ("min_idle", "max_workers"),
        ("min_workers", "max_workers"),
    ],
)
def test_low_above_high(low: str, high: str) -> None:
    text = message({low: 6, high: 5})
    assert text == (
        f"{option_name(low)} (6) is above {option_name(high)} (5);"
        f" give a {option_name(low)} of 5 or less,"
        f" or a {option_name(high)} of 6 or more."
    )
    # It names each where the user said it.
    text = message({low: 6}, {config_key(high): 5})
    assert f"{option_name(low)} (6) is above {config_key(high)} (5)" in text


def test_jitter_of_nothing() -> None:
    assert "--max-requests above 0" in message({"max_requests_jitter": 5})
    assert resolve({"max_requests_jitter": 5, "max_requests": 9}).max_requests == 9


@pytest.mark.parametrize(
    ("said", "min_idle", "max_idle", "min_workers", "max_workers"),
    [
        ({"max_workers": 1}, 1, 1, 1, 1),
        ({"max_idle": 1}, 1, 1, 1, 40),
        ({"min_idle": 60}, 60, 60, 60, 60),
        ({"max_workers": 3}, 2, 3, 2, 3),
        ({"min_workers": 50}, 2, 4, 50, 50),
        ({"min_idle": MAX_SLOTS}, MAX_SLOTS, MAX_SLOTS, MAX_SLOTS, MAX_SLOTS),
    ],
)
def test_default_gives_way_to_what_was_said(
    said: dict[str, int],
    min_idle: int,
    max_idle: int,
    min_workers: int,
    max_workers: int,
) -> None:
    settings = resolve(said)
    assert settings.min_idle == min_idle
    assert settings.max_idle == max_idle
    assert settings.min_workers == min_workers
    assert settings.max_workers == max_workers


_size = st.none() | st.integers(1, MAX_SLOTS)


@given(_size, _size, _size, _size)
def test_limits_are_in_order_whatever_was_said(
    min_idle: int | None,
    max_idle: int | None,
    min_workers: int | None,
    max_workers: int | None,
) -> None:
    said = {
        "min_idle": min_idle,
        "max_idle": max_idle,
        "min_workers": min_workers,
        "max_workers": max_workers,
    }
    try:
        settings = resolve(said)
    except SettingsError:
        return
    assert 1 <= settings.min_idle <= settings.max_idle
    assert settings.min_idle <= settings.max_workers
    assert settings.min_workers <= settings.max_workers <= MAX_SLOTS
    for name, value in said.items():
        assert value is None or getattr(settings, name) == value


def test_settings_travel_as_json() -> None:
    settings = resolve({"min_idle": 3, "request_handler": "module:Class"})
    assert Settings(**json.loads(json.dumps(settings.as_dict()))) == settings
