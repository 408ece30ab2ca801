"""Whole apps, and extensions with pages of their own."""

from __future__ import annotations

import json
import re
import typing as t
import urllib.parse

import requests
from integration.server import APPS as SUITE
from integration.server import Server
from integration.visitor import Visitor

from .base import app_path
from .base import APPS
from .base import ordeal
from .base import SERVER
from .base import TIMEOUT
from .base import Trial
from .base import warnings
from .base import World
from .services import open_postgres


def visitor(world: World, server: Server) -> Visitor:
    """A browser, which is closed when the trial ends."""
    found = Visitor(server.url)
    world.stack.enter_context(found.session)
    return found


def httpbin(world: World) -> None:
    """Some of what the suite compares with ``flask run``."""
    server = world.serve("httpbin:app")
    assert not warnings(server), warnings(server)
    with requests.Session() as session:
        session.trust_env = False
        sent = session.post(f"{server.url}/post", {"field": "ä"}, timeout=TIMEOUT)
        assert sent.json()["form"] == {"field": "ä"}
        streamed = session.get(f"{server.url}/stream/20", timeout=TIMEOUT)
        assert len(streamed.text.splitlines()) == 20
        data = session.get(f"{server.url}/bytes/90000?seed=1", timeout=TIMEOUT)
        assert len(data.content) == 90000
        large = b"\x00\xff" * 500_000
        posted = session.post(f"{server.url}/post", large, timeout=TIMEOUT)
        assert posted.status_code == 200
    ordeal(server, "/get")


_IHATEMONEY = """\
SECRET_KEY = "of the trial"
SQLALCHEMY_DATABASE_URI = "sqlite:///{folder}/expenses.db"
SESSION_COOKIE_SECURE = False
MAIL_SUPPRESS_SEND = True
"""


def ihatemoney(world: World) -> None:
    """A project with members, made by forms."""
    settings = world.folder / "settings.cfg"
    settings.write_text(_IHATEMONEY.format(folder=world.folder))
    server = world.serve(
        "",
        before=[world.program("ihatemoney")],
        env={"IHATEMONEY_SETTINGS_FILE_PATH": str(settings)},
    )
    assert not warnings(server), warnings(server)
    browser = visitor(world, server)
    browser.visit("/")
    who = {"name": "trip", "contact_email": "me@example.com", "password": "a code"}
    browser.send("/create", **who, default_currency="XXX")
    page = browser.send("/trip/members/add", name="Ada", weight="1")
    assert "Ada has been added" in page
    # The session is valid in the next generation.
    ordeal(
        server, "/authenticate", more=lambda: _assert_in("Ada", browser.visit("/trip/"))
    )


def _assert_in(text: str, page: str) -> None:
    assert text in page


def moto(world: World) -> None:
    """Buckets and objects, by boto3."""
    server = world.serve("moto.server:create_backend_app('s3')", "--max-workers", "1")
    client = str(SUITE / "s3_client.py")
    seen = json.loads(world.run("python", client, server.url))
    assert seen["poem"] == "text"
    assert seen["deleted"] == "404"
    assert "parts" in server.get("/shelf").body.decode()
    ordeal(server, "/")


def dash(world: World) -> None:
    """The page, and a callback as the page's script calls it."""
    server = world.serve("dash_app")
    assert not warnings(server), warnings(server)
    assert "_dash-config" in server.get("/").body.decode()
    assert server.get("/_dash-layout").json["type"] == "Div"
    (callback,) = server.get("/_dash-dependencies").json
    assert callback["output"] == "greeting.children"

    def greet(name: str) -> str:
        said = {
            "output": "greeting.children",
            "outputs": {"id": "greeting", "property": "children"},
            "inputs": [{"id": "name", "property": "value", "value": name}],
            "changedPropIds": ["name.value"],
        }
        url = f"{server.url}/_dash-update-component"
        answer = world.session().post(url, json=said, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["response"]["greeting"]["children"])

    assert greet("Bo").startswith("Hello, Bo, from ")
    ordeal(server, "/_dash-layout", more=lambda: _assert_in("Hello, Cy", greet("Cy")))


def flask_admin(world: World) -> None:
    """A row is made by a form, shown and edited."""
    url = f"sqlite:///{world.folder}/books.db"
    server = world.serve("admin_app", env={"DATABASE_URL": url})
    assert not warnings(server), warnings(server)
    browser = visitor(world, server)
    browser.visit("/admin/book/new/")
    browser.send("/admin/book/new/?url=/admin/book/", title="Fisch & Brötchen")
    assert "Fisch &amp; Brötchen" in browser.visit("/admin/book/")
    assert server.get("/").json["books"] == 1
    browser.visit("/admin/book/edit/?id=1")
    browser.send("/admin/book/edit/?id=1&url=/admin/book/", title="Brot")

    def check() -> None:
        assert "Brot" in browser.visit("/admin/book/")

    ordeal(server, more=check)


def flask_appbuilder(world: World) -> None:
    """A login, a row made by a form, and the API with a token."""
    env = {"DATABASE_URL": f"sqlite:///{world.folder}/books.db"}
    server = world.serve("appbuilder_app", env=env)
    assert not warnings(server), warnings(server)
    who = ["--username", "ada", "--firstname", "Ada", "--lastname", "L"]
    who += ["--email", "ada@example.com", "--password", "a code"]
    app = app_path("appbuilder_app")
    world.run("flask", "--app", app, "fab", "create-admin", *who, env=env)
    browser = visitor(world, server)
    browser.visit("/login/")
    browser.send("/login/", username="ada", password="a code")
    browser.visit("/bookview/add")
    browser.send("/bookview/add", title="Fisch & Brötchen")
    assert "Fisch &amp; Brötchen" in browser.visit("/bookview/list/")
    session = world.session()
    login = {"username": "ada", "password": "a code", "provider": "db"}
    answer = session.post(
        f"{server.url}/api/v1/security/login", json=login, timeout=TIMEOUT
    )
    assert answer.ok, answer.text
    token = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def check() -> None:
        # Session and token are valid in the next generation.
        found = session.get(
            f"{server.url}/api/v1/book/", headers=token, timeout=TIMEOUT
        )
        assert [one["title"] for one in found.json()["result"]] == ["Fisch & Brötchen"]
        assert "Fisch" in browser.visit("/bookview/list/")

    check()
    ordeal(server, "/pid", more=check)


def mlflow(world: World) -> None:
    """Runs with parameters, metrics and artifacts, by mlflow's client."""
    database = f"sqlite:///{world.folder}/mlflow.db"
    # As `mlflow server` does, which sets the same variables for its workers.
    world.run("mlflow", "db", "upgrade", database)
    env = {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(world.folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    server = world.serve("mlflow.server:app", env=env)
    client = str(APPS / "mlflow_client.py")
    assert world.run("python", client, server.url).split()[-1] == "3"
    ordeal(server, "/health", more=lambda: _again(world, server, client))


def _again(world: World, server: Server, client: str) -> None:
    """What the generation before has stored is there."""
    assert world.run("python", client, server.url).split()[-1] == "6"


_PGADMIN = """\
DATA_DIR = {folder!r}
LOG_FILE = DATA_DIR + "/pgadmin.log"
SQLITE_PATH = DATA_DIR + "/pgadmin.db"
SESSION_DB_PATH = DATA_DIR + "/sessions"
STORAGE_DIR = DATA_DIR + "/storage"
KERBEROS_CCACHE_DIR = DATA_DIR + "/kerberos"
AZURE_CREDENTIAL_CACHE_DIR = DATA_DIR + "/azure"
MASTER_PASSWORD_REQUIRED = False
UPGRADE_CHECK_ENABLED = False
"""
_EMAIL, _PASSWORD = "ada@example.com", "a code"


def pgadmin(world: World) -> None:
    """A login, a server that is registered, and its databases."""
    database = urllib.parse.urlsplit(open_postgres(world))
    (world.folder / "config_local.py").write_text(
        _PGADMIN.format(folder=str(world.folder))
    )
    env = {
        "PYTHONPATH": str(world.folder),
        "PGADMIN_SETUP_EMAIL": _EMAIL,
        "PGADMIN_SETUP_PASSWORD": _PASSWORD,
    }
    code = "import pgadmin4; print(*pgadmin4.__path__)"
    package = world.run("python", "-c", code).strip()
    # The first start makes its own database.
    server = world.serve(f"{package}/pgAdmin4.py:app", "--max-workers", "1", env=env)
    about = {
        "name": "shop",
        "host": database.hostname,
        "port": database.port,
        "db": "postgres",
        "maintenance_db": "postgres",
        "username": database.username,
        "connect_now": False,
        "sslmode": "prefer",
    }
    made = _log_in(world, server)("POST", "/browser/server/obj/1/", json=about)
    number = made.json()["node"]["_id"]

    def check() -> None:
        ask = _log_in(world, server)
        ask("POST", f"/browser/server/connect/1/{number}", data={"password": ""})
        found = ask("GET", f"/browser/database/nodes/1/{number}/").json()
        assert "postgres" in [one["label"] for one in found["data"]]

    check()
    # Also in the next generation.
    ordeal(server, "/misc/ping", more=check)


def _log_in(world: World, server: Server) -> t.Callable[..., requests.Response]:
    """A user of pgAdmin's.

    :return: Sends a request, by method and path, which must succeed.
    """
    session = world.session()

    def ask(method: str, path: str, **more: t.Any) -> requests.Response:
        answer = session.request(method, server.url + path, timeout=TIMEOUT, **more)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer

    def token(pattern: str, path: str) -> str:
        found = re.search(pattern, ask("GET", path).text)
        assert found is not None, f"no token in {path}"
        return found[1]

    form = {
        "email": _EMAIL,
        "password": _PASSWORD,
        "csrf_token": token(r'"csrfToken": ?"([^"]+)"', "/login"),
        "internal_button": "Login",
    }
    ask("POST", "/authenticate/login", data=form)
    of_scripts = token(r"csrf_token'\] = '([^']+)'", "/browser/js/utils.js")
    session.headers["X-pgA-CSRFToken"] = of_scripts
    return ask


TRIALS = [
    Trial(
        "httpbin",
        "httpbin",
        ("httpbin",),
        httpbin,
        ["flask --app httpbin:app prefork-run"],
    ),
    Trial(
        "ihatemoney",
        "I Hate Money",
        ("ihatemoney>=6",),
        ihatemoney,
        ["ihatemoney prefork-run"],
        advice="Nothing but the configuration file that it needs with any server.",
        python=(3, 11),
    ),
    Trial(
        "moto",
        "moto",
        ("moto[s3]>=5", "flask-cors", "boto3"),
        moto,
        [
            "flask --app \"moto.server:create_backend_app('s3')\" prefork-run"
            " --max-workers 1"
        ],
        "Works with one worker.",
        "``--max-workers 1``: its data is in its process.",
        shown=("moto",),
    ),
    Trial(
        "dash",
        "Dash",
        ("dash",),
        dash,
        [SERVER],
    ),
    Trial(
        "flask-admin",
        "Flask-Admin",
        ("flask-admin[sqlalchemy]",),
        flask_admin,
        [SERVER],
    ),
    Trial(
        "flask-appbuilder",
        "Flask-AppBuilder",
        # It accepts newer ones of the other, but fails with them, whatever the server.
        ("flask-appbuilder", "marshmallow<4"),
        flask_appbuilder,
        [SERVER],
        shown=("flask-appbuilder",),
    ),
    Trial(
        "mlflow",
        "mlflow",
        ("mlflow",),
        mlflow,
        ["flask --app mlflow.server:app prefork-run"],
        "Works as with gunicorn.",
        "Set the variables that ``mlflow server`` sets.",
    ),
    Trial(
        "pgadmin",
        "pgAdmin",
        ("pgadmin4",),
        pgadmin,
        [
            "flask --app site-packages/pgadmin4/pgAdmin4.py:app prefork-run"
            " --max-workers 1"
        ],
        "Works with one worker.",
        "``--max-workers 1``: its connections to servers are in its process.",
    ),
]
