"""Flask-SQLAlchemy: its engine has connections when the app is loaded."""

from __future__ import annotations

import os
import typing as t
import uuid

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column


class Base(DeclarativeBase):
    pass


app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
db = SQLAlchemy(app, model_class=Base)


class Order(db.Model):
    number: Mapped[str] = mapped_column(primary_key=True)


with app.app_context():
    # Leaves a connection in the pool.
    db.create_all()


@app.get("/")
def index() -> dict[str, t.Any]:
    number = uuid.uuid4().hex
    db.session.add(Order(number=number))
    db.session.commit()
    backend = db.session.scalar(select(func.pg_backend_pid()))
    return {"id": number, "backend": backend, "pid": os.getpid()}


@app.get("/numbers")
def numbers() -> list[str]:
    return list(db.session.scalars(select(Order.number)))
