"""What the command was started with, for what it starts later."""

from __future__ import annotations

import os
import resource
import sys
import typing as t
from pathlib import Path

import pytest

from flask_prefork.system import origin
from flask_prefork.system.descriptors import raise_descriptor_limit
from flask_prefork.system.origin import DirectoryError

from .forked import in_child

#: Writes where it runs, and what it may.
CODE = """
import os, resource, sys
with open(sys.argv[1], "w") as file:
    print(os.getcwd(), *resource.getrlimit(resource.RLIMIT_NOFILE), file=file)
"""


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two releases, in the first of which this process is.

    It has come there by the link ``current``.
    """
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
    (tmp_path / "current").symlink_to("1")
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("PWD", str(tmp_path / "current"))
    monkeypatch.setattr(origin, "_origin", None)
    return tmp_path


def relink(releases: Path) -> None:
    (releases / "new").symlink_to("2")
    (releases / "new").rename(releases / "current")


def noted() -> origin.Origin:
    origin.note()
    assert origin._origin is not None
    return origin._origin


def run_again(monkeypatch: pytest.MonkeyPatch, releases: Path) -> list[str]:
    """Run :data:`CODE` as if it had been the command.

    :return: The words that it has written.
    """
    out = releases / "out"
    arguments = [sys.executable, "-c", CODE, str(out)]
    monkeypatch.setattr(sys, "orig_argv", arguments)
    origin.note()
    relink(releases)
    _, status = os.waitpid(origin.again(os.environ, ()), 0)
    assert status == 0
    return out.read_text().split()


def test_it_goes_by_the_directorys_name(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_again(monkeypatch, releases)[0] == str(releases.resolve() / "2")


@pytest.mark.parametrize("name", [None, "", "current", "2", "/", "/no/such"])
def test_a_name_of_another_directory_is_none(
    releases: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    if name is None:
        monkeypatch.delenv("PWD")
    else:
        # A relative one is no name, wherever it leads.
        monkeypatch.setenv("PWD", name if name != "2" else str(releases / "2"))
    assert noted().directory == str(releases.resolve() / "1")


def test_a_directory_that_is_gone(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.note()
    (releases / "current").unlink()
    with pytest.raises(DirectoryError) as caught:
        origin.again(os.environ, ())
    text = str(caught.value)
    assert text == (
        f"can't go to {releases}/current, where it was started:"
        " No such file or directory"
    )


def test_a_directory_without_a_name(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (releases / "current").unlink()
    (releases / "1").rmdir()
    assert noted().directory is None


def test_a_script_is_run_by_what_it_names(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = releases / "flask"
    script.write_text("#!/opt/1/bin/python\nimport flask\n")
    script.chmod(0o755)
    command = [str(script), "--app", "shop"]
    monkeypatch.setattr(sys, "orig_argv", ["/opt/1/bin/python", *command])
    assert noted()[1:3] == (str(script), command)
    # By hand, with another interpreter.
    monkeypatch.setattr(sys, "orig_argv", ["/opt/2/bin/python", *command])
    assert noted()[1:3] == (sys.executable, ["/opt/2/bin/python", *command])
    script.chmod(0o644)
    monkeypatch.setattr(sys, "orig_argv", ["/opt/1/bin/python", *command])
    assert noted().program == sys.executable


@pytest.mark.parametrize("word", ["-m", "flask", "-c", "no/such", "./directory"])
def test_what_is_no_script(
    releases: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    (releases / "1" / "directory").mkdir()
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, word])
    assert noted()[1:3] == (sys.executable, [sys.executable, word])


def test_an_interpreter_in_the_release(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (releases / "1" / "bin").mkdir()
    (releases / "1" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "orig_argv", ["bin/python", "-m", "flask"])
    assert noted()[1:3] == ("bin/python", ["bin/python", "-m", "flask"])
    # Whoever names it by a path that isn't relative means that one.
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "flask"])
    assert noted().program == sys.executable


def test_limits_are_the_commands(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go() -> t.Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, 700))
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", ""])
        origin.note()
        assert raise_descriptor_limit() == 700
        words = run_again_raised()
        return words, resource.getrlimit(resource.RLIMIT_NOFILE)

    def run_again_raised() -> list[str]:
        out = releases / "out"
        arguments = [sys.executable, "-c", CODE, str(out)]
        pid = origin.spawn(sys.executable, arguments, os.environ, ())
        assert os.waitpid(pid, 0)[1] == 0
        return out.read_text().split()[1:]

    assert in_child(go) == [["500", "700"], [700, 700]]
