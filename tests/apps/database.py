"""Uses its database, named by ``DATABASE``, while it is loaded and in requests."""

from __future__ import annotations

import json
import os
import socket
import typing as t

from flask import Flask
from flask import request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event
from sqlalchemy import text

from flask_prefork import Prefork

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE"]
db = SQLAlchemy(app)
prefork = Prefork(app)


@prefork.before_fork
def look_at_the_pool() -> None:
    """The pool has a connection, or there'd be nothing to share."""
    assert db.engine.pool.checkedin() == 1  # type: ignore[attr-defined]


with app.app_context():

    @event.listens_for(db.engine, "connect")
    def sign(connection: t.Any, record: t.Any) -> None:
        record.info["maker"] = os.getpid()

    with db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE visits (pid INTEGER)"))


@app.get("/")
def index() -> dict[str, t.Any]:
    """Who made the connection that this request has?"""
    db.session.execute(text(f"INSERT INTO visits VALUES ({os.getpid()})"))
    maker = db.session.connection().connection.info["maker"]
    db.session.commit()
    with socket.create_connection(("127.0.0.1", int(request.args["gate"]))) as gate:
        gate.sendall(json.dumps({"pid": os.getpid(), "maker": maker}).encode() + b"\n")
        gate.recv(1)
    return {"pid": os.getpid(), "maker": maker}


@app.get("/visits")
def visits() -> list[int]:
    return list(db.session.execute(text("SELECT pid FROM visits")).scalars())
