"""Flask-Admin: forms for a table."""

from __future__ import annotations

import os
import typing as t

from flask import Flask
from flask_admin import Admin
from flask_admin.contrib.sqla import ModelView
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column


class Base(DeclarativeBase):
    pass


app = Flask(__name__)
app.config["SECRET_KEY"] = "of the trial"
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
db = SQLAlchemy(app, model_class=Base)


class Book(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


admin = Admin(app, name="Shop")
admin.add_view(ModelView(Book, db.session))
with app.app_context():
    db.create_all()


@app.get("/")
def index() -> dict[str, t.Any]:
    return {"pid": os.getpid(), "books": db.session.query(Book).count()}
