"""The files of ``deploy/``: those who are to read them take them, and what they say
of this server is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import click
import kubernetes_validate
import programs
import pytest
import yaml
from observe.snapshots import SAMPLE
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flask_prefork.cli import prefork_run
from flask_prefork.observe.openmetrics import render
from flask_prefork.settings.addresses import parse
from flask_prefork.settings.table import Settings

from .deployed import command_lines
from .deployed import container
from .deployed import DEPLOY
from .deployed import dockerfile
from .deployed import KUBERNETES
from .deployed import load
from .deployed import ROOT
from .deployed import SERVICE
from .deployed import settings
from .deployed import SOCKET
from .deployed import the
from .deployed import unit

needs_systemd = pytest.mark.skipif(
    programs.find("systemd-analyze") is None, reason=programs.lack("systemd-analyze")
)
needs_promtool = pytest.mark.skipif(
    programs.find("promtool") is None, reason=programs.lack("promtool")
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of who runs the suite."""
    for option in prefork_run.params:
        monkeypatch.delenv(f"FLASK_PREFORK_RUN_{option.name}".upper(), raising=False)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


def seconds(text: str) -> float:
    """``40s``, or a number of seconds."""
    return float(text.removesuffix("s"))


def timeout(line: list[str]) -> float:
    """How long the server may take to end, in seconds."""
    made = settings(line)
    return made.drain_delay + made.graceful_timeout


@pytest.mark.parametrize("kind", ["systemd", "docker", "kubernetes", "haproxy"])
def test_the_command_lines_are_right(kind: str) -> None:
    assert isinstance(settings(command_lines()[kind]), Settings)


def test_the_look_at_command_lines_finds_errors() -> None:
    with pytest.raises(click.UsageError):
        settings(["flask", "--app", "shop", "prefork-run", "--min-idel", "3"])


# systemd


def verify(service: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Let systemd look at both units."""
    (directory / SERVICE.name).write_text(service)
    shutil.copy(SOCKET, directory)
    # What it starts has to be there.
    units = [str(directory / path.name) for path in (SERVICE, SOCKET)]
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def service() -> str:
    """The service's unit, with programs that are here."""
    program = command_lines()["systemd"][0]
    text = SERVICE.read_text()
    assert text.count(program) == 1
    return text.replace(program, sys.executable)


@needs_systemd
def test_systemd_takes_the_units(service: str, tmp_path: Path) -> None:
    done = verify(service, tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


@needs_systemd
def test_systemd_finds_errors(service: str, tmp_path: Path) -> None:
    done = verify(service.replace("Type=notify", "Type=notifies"), tmp_path)
    assert "notifies" in done.stdout


@needs_systemd
def test_the_service_may_do_little(service: str, tmp_path: Path) -> None:
    (tmp_path / SERVICE.name).write_text(service)
    line = ["systemd-analyze", "security", "--offline=true", "--threshold=20"]
    done = subprocess.run(
        [*line, str(tmp_path / SERVICE.name)], capture_output=True, text=True
    )
    # Of 100, for what may do all.
    assert done.returncode == 0, done.stdout[-300:]


def test_the_service_fits_the_server() -> None:
    values = unit(SERVICE)["Service"]
    assert values["Type"] == ["notify"]
    assert values["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    # Its workers finish what they serve.
    assert values["KillMode"] == ["mixed"]
    line = command_lines()["systemd"]
    assert seconds(values["TimeoutStopSec"][0]) > timeout(line)
    admin = parse(settings(line).admin or "")
    (directory,) = values["RuntimeDirectory"]
    assert Path(admin.path).parent == Path("/run") / directory
    assert values["SystemCallFilter"] == ["@system-service", "~@privileged"]


# Docker


def test_the_image_fits_the_server() -> None:
    last = dockerfile()[-1]
    user = the(last, "USER").rest
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, and not root's"
    assert the(last, "STOPSIGNAL").rest == "SIGTERM"
    line = the(last, "CMD").words
    admin = parse(settings(line).admin or "")
    assert the(last, "EXPOSE").rest.split() == ["5000", str(admin.port)]
    assert f"127.0.0.1:{admin.port}/livez" in the(last, "HEALTHCHECK").rest


def test_what_is_copied_into_the_image_is_there() -> None:
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for name in sent:
        assert (ROOT / name).exists()
    for stage in dockerfile():
        for one in stage:
            if one.name == "COPY" and not one.rest.startswith("--from"):
                assert one.rest.split()[0] in [".", *sent]


def test_compose_fits_the_image() -> None:
    (service,) = load(DEPLOY / "docker" / "compose.yaml")["services"].values()
    build = service["build"]
    context = (DEPLOY / "docker" / build["context"]).resolve()
    assert context == ROOT
    last = dockerfile()[-1]
    assert (context / build["dockerfile"]).is_file()
    ports = [port.rpartition(":")[2] for port in service["ports"]]
    assert ports == the(last, "EXPOSE").rest.split()
    known = {f"FLASK_PREFORK_RUN_{p.name}".upper() for p in prefork_run.params}
    assert service["environment"].keys() <= known
    assert seconds(service["stop_grace_period"]) > timeout(the(last, "CMD").words)


# Kubernetes

RESOURCES = ("deployment", "service", "hpa")


@pytest.mark.parametrize("name", RESOURCES)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_takes_it(name: str, version: str) -> None:
    resource = load(KUBERNETES / f"{name}.yaml")
    kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_find_errors() -> None:
    resource = load(KUBERNETES / "deployment.yaml")
    (shop,) = resource["spec"]["template"]["spec"]["containers"]
    shop["livenessProb"] = shop.pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource, "1.37", strict=True)


def test_the_pods_fit_the_server() -> None:
    shop = container()
    admin = parse(settings(shop["args"]).admin or "")
    ports = {port["name"]: port["containerPort"] for port in shop["ports"]}
    assert ports == {"http": 5000, "admin": admin.port}
    assert not admin.is_local, "the node asks"
    probes = {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    for name, path in probes.items():
        assert shop[f"{name}Probe"]["httpGet"] == {"path": path, "port": "admin"}
    (variable,) = shop["env"]
    assert variable["name"] == "FLASK_PREFORK_RUN_ADMIN_TOKEN"
    user = the(dockerfile()[-1], "USER").rest
    pod = load(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    identity = pod["securityContext"]
    assert f"{identity['runAsUser']}:{identity['runAsGroup']}" == user
    assert pod["terminationGracePeriodSeconds"] > timeout(shop["args"])


def test_nodes_notice_before_nobody_accepts() -> None:
    shop = container()
    probe = shop["readinessProbe"]
    notice = probe["periodSeconds"] * probe["failureThreshold"]
    assert settings(shop["args"]).drain_delay > notice


def test_the_resources_fit_together() -> None:
    deployment, service, hpa = (load(KUBERNETES / f"{name}.yaml") for name in RESOURCES)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    names = [port["name"] for port in container()["ports"]]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(names)
    target = hpa["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "shop")
    assert deployment["metadata"]["name"] == "shop"
    assert "replicas" not in deployment["spec"], "two would decide how many"


def exposed() -> dict[str, list[dict[str, str]]]:
    """The labels of all series that ``/metrics`` has, by their names."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(render(SAMPLE).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def amount(quantity: str) -> float:
    """A quantity as Kubernetes writes it: 100m is 0.1."""
    if quantity.endswith("m"):
        return int(quantity[:-1]) / 1000
    return float(quantity)


def test_pods_are_scaled_by_what_there_is() -> None:
    metrics = load(KUBERNETES / "hpa.yaml")["spec"]["metrics"]
    series = exposed()
    most = settings(container()["args"]).max_workers
    for metric in (one["pods"] for one in metrics):
        # The autoscaler's is the mean of a histogram's.
        name = metric["metric"]["name"].replace("queue_seconds", "queue_seconds_sum")
        wanted = metric["metric"].get("selector", {}).get("matchLabels", {})
        assert any(labels.items() >= wanted.items() for labels in series[name])
        assert amount(metric["target"]["averageValue"]) < most
    rules = load(KUBERNETES / "prometheus-adapter.yaml")["rules"]["custom"]
    made = set()
    for rule in rules:
        name = rule["seriesQuery"].partition("{")[0]
        assert name in series
        renamed = rule.get("name", {"matches": "^(.*)$", "as": "$1"})
        template = renamed["as"].replace("$1", r"\1")
        made.add(re.sub(renamed["matches"], template, name))
        asked = re.findall(r"flask_prefork_\w+", rule["metricsQuery"])
        assert set(asked) <= series.keys()
    assert made == {one["pods"]["metric"]["name"] for one in metrics}
    given = load(KUBERNETES / "prometheus.yml")["scrape_configs"][0]["relabel_configs"]
    targets = {config.get("target_label") for config in given}
    for rule in rules:
        assert rule["resources"]["overrides"].keys() <= targets


@needs_promtool
def test_prometheus_takes_the_scrape_configuration(tmp_path: Path) -> None:
    text = (KUBERNETES / "prometheus.yml").read_text()
    token = tmp_path / "token"
    token.write_text("s3cret")
    place = "/etc/prometheus/flask_prefork.token"
    assert text.count(place) == 1
    # It looks whether the file is there.
    made = yaml.safe_load(text.replace(place, str(token)))
    (job,) = made["scrape_configs"]
    # Debian's Prometheus is built without it.
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    job["static_configs"] = [{"targets": ["127.0.0.1:9000"]}]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(made))
    done = subprocess.run(
        ["promtool", "check", "config", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_scraped_is_what_runs() -> None:
    (job,) = load(KUBERNETES / "prometheus.yml")["scrape_configs"]
    kept: dict[str, t.Any] = {
        config["source_labels"][0].removeprefix("__meta_kubernetes_pod_"): config
        for config in job["relabel_configs"]
        if config.get("action") == "keep"
    }
    deployment = load(KUBERNETES / "deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ((label, value),) = labels.items()
    name = re.sub(r"\W", "_", label)
    assert kept[f"label_{name}"]["regex"] == value
    ports = [port["name"] for port in container()["ports"]]
    assert kept["container_port_name"]["regex"] in ports
