"""What is in the files of ``deploy/``, for the tests that are about them."""

from __future__ import annotations

import json
import shlex
import typing as t
from configparser import ConfigParser
from pathlib import Path

import yaml

from flask_prefork.cli import prefork_run
from flask_prefork.settings.table import resolve
from flask_prefork.settings.table import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SERVICE = DEPLOY / "systemd" / "flask-prefork.service"
SOCKET = DEPLOY / "systemd" / "flask-prefork.socket"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
KUBERNETES = DEPLOY / "kubernetes"


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """A unit of systemd's: the values of each key, by section and key."""

    class Values(dict[str, t.Any]):
        """Where a key comes twice, both count."""

        def __setitem__(self, key: str, value: t.Any) -> None:
            if isinstance(value, list) and key in self:
                value = [*self[key], *value]
            super().__setitem__(key, value)

    parser = ConfigParser(
        dict_type=Values,
        strict=False,
        interpolation=None,
        delimiters=["="],
        empty_lines_in_values=False,
    )
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(path)
    return {
        name: {key: text.split("\n") for key, text in parser[name].items()}
        for name in parser.sections()
    }


class Instruction(t.NamedTuple):
    """A line of a Dockerfile."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The words of its JSON form, for those that have one."""
        words = json.loads(self.rest[self.rest.index("[") :])
        assert all(isinstance(word, str) for word in words)
        return list(words)


def dockerfile() -> list[list[Instruction]]:
    """The Dockerfile's instructions, by stage."""
    stages: list[list[Instruction]] = []
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                stages.append([])
            stages[-1].append(Instruction(name, rest.strip()))
    return stages


def the(stage: list[Instruction], name: str) -> Instruction:
    """The only instruction of a name."""
    (found,) = (one for one in stage if one.name == name)
    return found


def load(path: Path) -> t.Any:
    """A YAML file's content."""
    return yaml.safe_load(path.read_text())


def container() -> t.Any:
    """The only container of the Deployment."""
    spec = load(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    (found,) = spec["containers"]
    return found


def command_lines() -> dict[str, list[str]]:
    """The command lines in the files, by the files' names."""
    (started,) = unit(SERVICE)["Service"]["ExecStart"]
    return {
        "systemd": shlex.split(started),
        "docker": the(dockerfile()[-1], "CMD").words,
        "kubernetes": container()["args"],
        "haproxy": _quoted(DEPLOY / "haproxy" / "haproxy.cfg"),
    }


def _quoted(path: Path) -> list[str]:
    """The command line in a file's comments."""
    lines = [line.lstrip("# ") for line in path.read_text().splitlines()]
    (first,) = (i for i, line in enumerate(lines) if line.startswith("flask --app"))
    text = lines[first]
    while text.endswith("\\"):
        first += 1
        text = text.removesuffix("\\") + lines[first]
    return shlex.split(text)


def settings(line: list[str]) -> Settings:
    """The settings that a command line makes.

    :raises click.UsageError: If it isn't one.
    """
    name, flag, _, command, *args = line
    assert (Path(name).name, flag, command) == ("flask", "--app", "prefork-run")
    with prefork_run.make_context(command, args) as context:
        own = set(Settings.__dataclass_fields__)
        return resolve({k: v for k, v in context.params.items() if k in own})
