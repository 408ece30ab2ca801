"""The script that tries real apps, and the page that it writes a table for."""

from __future__ import annotations

import importlib.util
import re
import sys
import typing as t
from concurrent.futures import Future
from pathlib import Path

import pytest
from integration.environments import CannotInstall
from integration.environments import Environment
from manual.pages import DOCS

from compat import real_apps
from compat.trials import TRIALS
from compat.trials.base import NotHere
from compat.trials.base import Trial
from compat.trials.base import World

PAGE = (DOCS / "real-apps.rst").read_text("utf-8")
TABLE = real_apps.TABLE.read_text("utf-8")
HEADINGS = re.findall(r"^(.+)\n-+\n", PAGE, re.MULTILINE)


class Here(Environment):
    """The environment that the suite runs in."""

    def __init__(self) -> None:
        super().__init__("of the suite")

    def program(self, name: str) -> str:
        return str(Path(sys.executable).with_name(name))

    def prepare(self) -> None:
        raise AssertionError("nothing is to be installed")


def here() -> Future[Environment]:
    future: Future[Environment] = Future()
    future.set_result(Here())
    return future


def stub(name: str, run: t.Callable[[World], None]) -> Trial:
    """A trial of a library that the suite has."""
    return Trial(name, name.title(), ("werkzeug",), run, ["flask prefork-run"])


# The page


def test_the_table_is_of_the_scripts_making() -> None:
    assert real_apps.render(real_apps.parse(TABLE)) == TABLE


def test_no_other_text_is_taken_for_the_table() -> None:
    with pytest.raises(ValueError, match="when it was tried"):
        real_apps.parse(PAGE)


def test_the_table_has_what_the_script_tries() -> None:
    results = real_apps.parse(TABLE).results
    assert [one.title for one in results] == [one.title for one in TRIALS.values()]
    for result, trial in zip(results, TRIALS.values(), strict=True):
        # A remark may follow, or it failed.
        if result.outcome.startswith(trial.outcome):
            assert result.advice == trial.advice
        else:
            assert result.outcome.startswith(("Fails: ", "Not tried: "))


def test_there_is_a_section_where_there_is_something_to_do() -> None:
    needy = [one.title for one in TRIALS.values() if one.outcome != "Works."]
    assert [one for one in needy if not any(one in h for h in HEADINGS)] == []


def test_no_section_is_about_something_else() -> None:
    titles = [one.title for one in TRIALS.values()]
    about = [h for h in HEADINGS if not any(title in h for title in titles)]
    assert about == ["What a trial does"]


def test_the_page_includes_the_table() -> None:
    assert f".. include:: {real_apps.TABLE.name}\n" in PAGE
    assert f"$ {real_apps.COMMAND}\n" in PAGE


# The script


@pytest.mark.parametrize("name", ["httpbin", "flask-sock", "prometheus-client"])
def test_a_trial_whose_library_the_suite_has(name: str) -> None:
    trial = TRIALS[name]
    module = real_apps.base_name(trial.requirements[0]).replace("-", "_")
    assert importlib.util.find_spec(module) is not None
    tried = real_apps.attempt(trial, here())
    assert tried.status == "works", tried.result.outcome
    assert tried.result.outcome == trial.outcome
    assert re.fullmatch(r"\d+(\.\d+)+\S*", tried.result.versions)


def main(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *trials: Trial, all: bool = True
) -> tuple[int, str]:
    """Run the script with these trials instead.

    :param all: Without naming them.
    :return: Its exit status, and the table that it wrote, if it did.
    """
    table = folder / "table.inc"
    monkeypatch.setattr(real_apps, "ROOT", folder)
    monkeypatch.setattr(real_apps, "TABLE", table)
    monkeypatch.setattr(real_apps, "TRIALS", {one.name: one for one in trials})

    def prepare(trial: Trial) -> Environment:
        if trial.name == "strange":
            raise CannotInstall("ERROR: No matching distribution found for `strange`")
        return Here()

    monkeypatch.setattr(real_apps, "prepare", prepare)
    names = [] if all else [one.name for one in trials]
    status = real_apps.main(names)
    return status, table.read_text() if table.exists() else ""


def serves(world: World) -> None:
    world.serve("httpbin:app")


def lacks(world: World) -> None:
    raise NotHere("PostgreSQL isn't installed")


def fails(world: World) -> None:
    server = world.serve("httpbin:app")
    assert server.get("/status/500").status == 200, "the *answer* is an error"


def remarks(world: World) -> None:
    world.remarks.append("without Redis")


def test_all_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trials = stub("one", serves), stub("two", remarks)
    status, text = main(monkeypatch, tmp_path, *trials)
    assert status == 0
    one, two = real_apps.parse(text).results
    assert one.outcome == "Works."
    assert one.advice == "Nothing."
    assert two.outcome == "Works. (without Redis)"


def test_what_can_not_be_tried_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials = stub("strange", serves), stub("lacking", lacks), stub("one", remarks)
    status, text = main(monkeypatch, tmp_path, *trials)
    assert status == 3
    assert [one.outcome for one in real_apps.parse(text).results] == [
        "Not tried: ERROR: No matching distribution found for strange",
        "Not tried: PostgreSQL isn't installed",
        "Works. (without Redis)",
    ]


def test_a_failure_shows_the_servers_log(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    trials = stub("lacking", lacks), stub("failing", fails), stub("one", remarks)
    status, text = main(monkeypatch, tmp_path, *trials)
    assert status == 1
    outcomes = [one.outcome for one in real_apps.parse(text).results]
    assert outcomes[1] == "Fails: the answer is an error"
    assert outcomes[2].startswith("Works.")
    shown = capfd.readouterr().err
    assert "AssertionError: the *answer* is an error" in shown
    assert "--- server 1\n" in shown
    assert "Generation 1 serves" in shown


def test_a_part_of_the_trials_writes_no_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trial = stub("one", remarks)
    assert main(monkeypatch, tmp_path, trial, all=False) == (0, "")


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        real_apps.main(["unheard-of"])
    assert exit.value.code == 2
    assert "no such trial: unheard-of" in capsys.readouterr().err
