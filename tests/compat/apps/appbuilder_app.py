"""Flask-AppBuilder: logins, roles, forms and an API for a table."""

from __future__ import annotations

import os
import typing as t

from flask import Flask
from flask_appbuilder import AppBuilder
from flask_appbuilder import Model
from flask_appbuilder import ModelRestApi
from flask_appbuilder import ModelView
from flask_appbuilder.models.sqla.interface import SQLAInterface
from sqlalchemy import Column
from sqlalchemy import Integer
from sqlalchemy import String

try:
    from flask_appbuilder import SQLA
except ImportError:
    from flask_appbuilder.utils.legacy import get_sqla_class

    SQLA = get_sqla_class()


class Book(Model):
    __tablename__ = "book"
    id = Column(Integer, primary_key=True)
    title = Column(String(200), nullable=False)

    def __repr__(self) -> str:
        return self.title


class BookView(ModelView):
    datamodel = SQLAInterface(Book)
    list_columns = ["title"]
    add_columns = edit_columns = show_columns = ["title"]


class BookApi(ModelRestApi):
    resource_name = "book"
    datamodel = SQLAInterface(Book)
    allow_browser_login = True
    list_columns = add_columns = show_columns = ["title"]


db = SQLA()


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "of the trial, and long enough for a token's signature"
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    app.config["WTF_CSRF_ENABLED"] = True
    app.config["FAB_ADD_SECURITY_API"] = True
    with app.app_context():
        db.init_app(app)
        appbuilder = AppBuilder(app, db.session)
        db.create_all()
        appbuilder.add_view(BookView, "Books", category="Shop")
        appbuilder.add_api(BookApi)

    @app.get("/pid")
    def pid() -> dict[str, t.Any]:
        return {"pid": os.getpid()}

    return app
