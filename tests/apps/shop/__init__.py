"""A package with an app factory, and commands of its own beside the server's."""

from __future__ import annotations

import click
from flask import Blueprint
from flask import current_app
from flask import Flask
from flask import request

catalogue = Blueprint("catalogue", __name__, url_prefix="/catalogue")


@catalogue.get("/")
def index() -> dict[str, int]:
    return {"slot": request.environ["flask_prefork.slot"]}


@catalogue.cli.command("count")
@click.argument("shelf")
def count(shelf: str) -> None:
    """A blueprint's command, in the app's context."""
    click.echo(f"{shelf} of {current_app.name}: {len(shelf)}")


def create_app() -> Flask:
    app = Flask(__name__)
    app.register_blueprint(catalogue)

    @app.get("/")
    def index() -> dict[str, str]:
        return {"name": app.name}

    @app.cli.command("open")
    def open_the_shop() -> None:
        """An app's command."""
        click.echo(f"{current_app.name} is open")

    return app
