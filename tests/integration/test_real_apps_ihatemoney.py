"""I Hate Money, unchanged: a group's expenses, by forms, logins and an API.

What it needs is in ``docs/real-apps.rst``. Its versions for Flask 3 need Python 3.11,
so ``conftest.py`` leaves this out where that isn't.
"""

from __future__ import annotations

import signal
import typing as t
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from .conftest import Run
from .environments import installed
from .gate import DEADLINE
from .server import Server
from .visitor import Visitor

pytestmark = pytest.mark.slow
SETTINGS = """\
SECRET_KEY = "of the tests"
SQLALCHEMY_DATABASE_URI = "sqlite:///{path}"
SESSION_COOKIE_SECURE = False
MAIL_SUPPRESS_SEND = True
"""
CODE = {"password": "a private code"}
AUTH = ("trip", CODE["password"])


@pytest.fixture
def server(run: Run, tmp_path: Path) -> Server:
    """By its own command: it is a FlaskGroup."""
    environment = installed("ihatemoney", "ihatemoney>=6")
    settings = tmp_path / "settings.cfg"
    settings.write_text(SETTINGS.format(path=tmp_path / "expenses.db"))
    env = {"IHATEMONEY_SETTINGS_FILE_PATH": str(settings)}
    line = [environment.program("ihatemoney"), "prefork-run", "--port", "0"]
    return run([*line, "--min-idle", "3"], env=env)


@pytest.fixture
def visitor(server: Server) -> Iterator[Visitor]:
    """Has made a project with two members, and is logged in."""
    visitor = Visitor(server.url)
    with visitor.session:
        visitor.visit("/")
        who = {"name": "trip", "contact_email": "me@example.com"}
        page = visitor.send("/create", **who, **CODE, default_currency="XXX")
        assert visitor.path == "/trip/", page
        for name in ("Ada", "Bo"):
            page = visitor.send("/trip/members/add", name=name, weight="1")
            assert f"{name} has been added" in page
        yield visitor


def balances(server: Server) -> dict[str, float]:
    """What the API tells of each member."""
    answer = api(server, "GET", "statistics").json()
    return {one["member"]["name"]: one["balance"] for one in answer}


def api(server: Server, method: str, name: str, **data: t.Any) -> requests.Response:
    url = f"{server.url}/api/projects/trip/{name}"
    with requests.Session() as session:
        session.trust_env = False
        answer = session.request(method, url, data=data, auth=AUTH, timeout=DEADLINE)
    assert answer.ok, answer.text
    return answer


BILL = {
    "date": "2026-01-02",
    "payer": 1,
    "payed_for": [1, 2],
    "bill_type": "Expense",
    "original_currency": "XXX",
}


def test_forms(server: Server, visitor: Visitor) -> None:
    visitor.visit("/trip/add")
    page = visitor.send("/trip/add", **BILL, what="Fisch & Brötchen", amount="8.50")
    assert "The bill has been added" in page
    assert "Fisch &amp; Brötchen" in page
    assert balances(server) == {"Ada": 4.25, "Bo": -4.25}
    export = visitor.session.get(f"{visitor.url}/trip/export/bills.json")
    assert [bill["what"] for bill in export.json()] == ["Fisch & Brötchen"]
    # Forms without their token are refused.
    visitor.token = ""
    visitor.send("/trip/add", **BILL, what="Forged", amount="1")
    assert balances(server) == {"Ada": 4.25, "Bo": -4.25}


def test_logins(server: Server, visitor: Visitor) -> None:
    visitor.visit("/trip/")
    visitor.send("/exit")
    assert visitor.path == "/"
    visitor.visit("/trip/")
    assert visitor.path.startswith("/authenticate")
    page = visitor.send("/authenticate", id="trip", password="a wrong code")
    assert "not the right one" in page
    visitor.send("/authenticate", id="trip", **CODE)
    assert visitor.path == "/trip/"
    # A session outlives the workers that made it.
    server.signal(signal.SIGHUP)
    server.wait_for_log(r"^Generation 2 serves\.$")
    assert "Ada" in visitor.visit("/trip/")
    assert visitor.path == "/trip/"


def test_many_users(server: Server, visitor: Visitor) -> None:
    """Their bills come at once, and none is lost in a reload."""

    def add(number: int) -> None:
        if number == 8:
            server.signal(signal.SIGHUP)
        api(server, "POST", "bills", **BILL, what=f"Bill {number}", amount="2")

    with ThreadPoolExecutor(4) as users:
        list(users.map(add, range(24)))
    server.wait_for_log(r"^Generation 2 serves\.$")
    assert balances(server) == {"Ada": 24, "Bo": -24}
    bills = api(server, "GET", "bills").json()
    assert sorted(bill["what"] for bill in bills) == sorted(
        f"Bill {number}" for number in range(24)
    )
