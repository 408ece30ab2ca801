"""The shop's own command: what others call ``manage.py``."""

from __future__ import annotations

import click
from flask.cli import FlaskGroup

from shop import create_app


@click.group(cls=FlaskGroup, create_app=create_app)
def cli() -> None:
    """Manages the shop."""


@cli.command()
def close() -> None:
    """A command of the script itself."""
    click.echo("the shop is closed")


if __name__ == "__main__":
    cli()
