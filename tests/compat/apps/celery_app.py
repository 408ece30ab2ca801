"""Celery: views send tasks to a broker, and a worker of Celery's does them."""

from __future__ import annotations

import os
import typing as t
import uuid

from celery import Celery
from flask import Flask

app = Flask(__name__)
tasks = Celery("celery_app", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
if os.environ["BROKER"].startswith("filesystem"):
    folder = os.environ["FOLDER"]
    tasks.conf.broker_transport_options = {
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": f"{folder}-control",
    }


@tasks.task
def add(a: int, b: int, number: str) -> int:
    with open(os.environ["DONE"], "a") as file:
        file.write(f"{number}\n")
    return a + b


@app.get("/")
def index() -> dict[str, t.Any]:
    number = uuid.uuid4().hex
    task = add.delay(2, 3, number)
    return {"id": number, "task": task.id, "pid": os.getpid()}


@app.get("/result/<task>")
def result(task: str) -> dict[str, t.Any]:
    return {"result": add.AsyncResult(task).get(timeout=20)}
