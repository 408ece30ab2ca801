"""The dashboard and the alert rules in ``deploy/``: they are about what
``/metrics`` says, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import subprocess
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import programs
import pytest
from observe.snapshots import SAMPLE
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flask_prefork.observe.openmetrics import render

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "flask_prefork.json"
PROMETHEUS = DEPLOY / "prometheus"

needs_promtool = pytest.mark.skipif(
    programs.find("promtool") is None, reason=programs.lack("promtool")
)


def exposed() -> set[str]:
    """The names of all series that ``/metrics`` has."""
    text = render(replace(SAMPLE, totals=replace(SAMPLE.totals, deaths={"exit": 1})))
    families = text_string_to_metric_families(text.decode())
    return {sample.name for family in families for sample in family.samples}


def named(text: str) -> set[str]:
    """The names of series in a text; labels and the job have other places."""
    return set(re.findall(r"\bflask_prefork_\w+(?=[{\[\s)]|$)(?!=)", text))


@pytest.fixture(scope="module")
def dashboard() -> t.Any:
    return json.loads(DASHBOARD.read_text())


def expressions(dashboard: t.Any) -> Iterator[str]:
    """All queries of the dashboard."""
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_the_dashboard_names_what_there_is(dashboard: t.Any) -> None:
    shown = named("\n".join(expressions(dashboard)))
    assert shown <= exposed()
    # And most of what there is; the rest is for alerts and for the curious.
    assert len(shown) > len(exposed()) / 2
    for variable in dashboard["templating"]["list"]:
        assert named(variable.get("definition", "").replace(",", " ")) <= exposed()


def test_the_look_for_names_sees_them() -> None:
    query = 'sum(flask_prefork_a) / rate(flask_prefork_b{flask_prefork_c="x"}[5m])'
    assert named(query) == {"flask_prefork_a", "flask_prefork_b"}


def test_the_dashboard_has_what_grafana_needs(dashboard: t.Any) -> None:
    assert isinstance(dashboard["schemaVersion"], int)
    assert re.fullmatch(r"[\w-]{1,40}", dashboard["uid"])
    # One that is imported gets its number there.
    assert "id" not in dashboard
    assert dashboard["title"] and dashboard["time"].keys() == {"from", "to"}
    sources = [v["name"] for v in dashboard["templating"]["list"]]
    assert sources == ["datasource", "instance"]
    for panel in dashboard["panels"]:
        assert panel["type"] in ("stat", "timeseries", "heatmap")
        assert panel["title"] and panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"].keys() == {"x", "y", "w", "h"}
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_panels_dont_cover_each_other(dashboard: t.Any) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(p["x"] >= 0 and p["x"] + p["w"] <= 24 for p in places)
    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )


def promtool(*args: str, cwd: Path = PROMETHEUS) -> None:
    done = subprocess.run(
        ["promtool", *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@needs_promtool
def test_prometheus_takes_the_queries_of_the_dashboard(
    dashboard: t.Any, tmp_path: Path
) -> None:
    rules = []
    for number, expression in enumerate(expressions(dashboard)):
        for variable, value in {"$__rate_interval": "5m", "$instance": ".*"}.items():
            expression = expression.replace(variable, value)
        rules.append({"record": f"query_{number}", "expr": expression})
    # JSON is YAML.
    text = json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    (tmp_path / "rules.yml").write_text(text)
    promtool("check", "rules", "rules.yml", cwd=tmp_path)


def test_alerts_name_what_there_is() -> None:
    names = named((PROMETHEUS / "alerts.yml").read_text())
    assert names and names <= exposed()


@needs_promtool
def test_prometheus_takes_the_alerts() -> None:
    promtool("check", "rules", "alerts.yml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", "alerts_test.yml")


@needs_promtool
def test_prometheus_takes_the_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_promtool_finds_errors(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text("groups: [{name: x, rules: [{expr: '('}]}]")
    with pytest.raises(AssertionError):
        promtool("check", "rules", "rules.yml", cwd=tmp_path)
