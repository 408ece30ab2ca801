"""The arithmetic of capacity: by the books, beside the simulation, and on its page."""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import capacity
from simulation import traffic
from simulation.engine import Machine
from simulation.engine import World
from simulation.ours import Limits
from simulation.ours import Prefork


def test_erlang_c_as_in_the_books() -> None:
    # A single server's is its utilisation.
    assert capacity.erlang_c(0.7, 1) == pytest.approx(0.7)
    # Two servers: 2 rho^2 / (1 + rho).
    assert capacity.erlang_c(1.2, 2) == pytest.approx(2 * 0.36 / 1.6)
    assert capacity.mean_wait(0.5, 1, 1.0) == pytest.approx(1.0)
    assert capacity.wait_quantile(0.5, 1, 1.0, 0.5) == 0.0
    assert capacity.wait_quantile(0.5, 1, 1.0, 0.99) == pytest.approx(math.log(50) * 2)


@pytest.mark.parametrize("workers", [12, 14])
def test_a_fixed_pool_is_as_erlang_says(workers: int) -> None:
    rate, service = 200.0, 0.05
    load = rate * service
    requests = traffic.make(traffic.poisson(rate, 150), traffic.exponential(service), 5)
    limits = Limits(1, workers, min_workers=workers)
    account = World(
        requests, Machine(0.0, 0.0), lambda world: Prefork(world, limits)
    ).run()
    assert account.peak == workers
    # Neighbours wait alike: what is independent is batches of them.
    size = 2500
    batches = [
        sum(account.waits[start : start + size]) / size
        for start in range(0, len(account.waits) - size, size)
    ]
    mean = sum(batches) / len(batches)
    variance = sum((one - mean) ** 2 for one in batches) / (len(batches) - 1)
    error = math.sqrt(variance / len(batches))
    expected = capacity.mean_wait(load, workers, service)
    assert abs(mean - expected) < 4 * error
    # And that says something.
    assert error < expected / 4


def test_spares_cover_their_risk() -> None:
    assert capacity.spares(3.0, 1 - math.exp(-3.0)) == 0
    assert capacity.spares(3.0, 1 - 4 * math.exp(-3.0) + 1e-9) == 1
    # Where exp() of the mean is nothing.
    assert 5000 < capacity.spares(5000.0, 0.01) < 5200
    assert capacity.newcomers(10.0, 0.05, 1000.0) == pytest.approx(10.0)
    assert capacity.newcomers(10.0, 0.05, 0.0) == 0.0


def test_machines_hold_what_fits() -> None:
    assert capacity.machines(40, 60, 25, 2048) == (79, 1)
    assert capacity.machines(400, 60, 25, 2048) == (79, 6)
    assert capacity.machines(1, 100, 25, 90) == (0, 0)


# What is shown


def test_sigma_is_nothing_without_a_simulation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        capacity.parse(["workers", "--rate", "1", "--service", "1", "--sigma", "1"])
    assert "--sigma is for --simulate" in capsys.readouterr().err


@pytest.mark.parametrize("rate", ["0", "-1", "inf", "nan"])
def test_a_rate_that_cant_be_is_told(
    rate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        capacity.parse(["workers", "--rate", rate, "--service", "1"])
    assert "argument --rate: must be more than 0" in capsys.readouterr().err


def test_no_worker_fits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="No worker fits: 4000 MB are shared"):
        capacity.main(
            ["machines", "--workers", "1", "--shared", "4000", "--private", "1"]
        )


# The page


PAGE = Path(__file__).parents[2] / "docs" / "capacity.rst"
PROMPT = "$ python benchmarks/capacity.py "


def commands() -> list[tuple[str, str]]:
    """The commands on the page that answer at once, with what they print there."""
    blocks = re.split(r"(?m)^(?=\S)", PAGE.read_text(encoding="utf-8"))
    found = []
    for block in blocks:
        lines = [line.removeprefix("    ").rstrip() for line in block.splitlines()]
        for number, line in enumerate(lines):
            # That one takes seconds, and has a test of its own.
            if line.startswith(PROMPT) and "--simulate" not in line:
                output = "\n".join(lines[number + 1 :]).strip()
                found.append((line.removeprefix(PROMPT), output))
    return found


def test_the_page_shows_commands() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize(("words", "shown"), commands())
def test_the_page_shows_what_its_commands_print(words: str, shown: str) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        capacity.main(words.split())
    assert output.getvalue().strip() == shown
