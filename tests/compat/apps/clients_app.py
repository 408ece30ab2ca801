"""HTTP clients that are made while the app is loaded: requests, httpx, boto3.

With ``USED`` they are used then, too, and so have connections at the fork.
"""

from __future__ import annotations

import json
import os
import typing as t

import boto3
import httpx
import requests
from flask import Flask

URL = os.environ["SERVICE"]
app = Flask(__name__)
session = requests.Session()
client = httpx.Client()
s3 = boto3.client(
    "s3",
    endpoint_url=URL,
    region_name="eu-west-1",
    aws_access_key_id="nobody",
    aws_secret_access_key="nothing",
)


def peers() -> dict[str, t.Any]:
    """Our port of each client's connection, as the service sees it."""
    answer = s3.get_object(Bucket="shelf", Key="book")
    return {
        "requests": session.get(URL).json()["peer"],
        "httpx": client.get(URL).json()["peer"],
        "boto3": json.load(answer["Body"])["peer"],
    }


at_import = peers() if os.environ.get("USED") else {}


@app.get("/")
def index() -> dict[str, t.Any]:
    return {**peers(), "pid": os.getpid()}


@app.get("/at-import")
def loaded() -> dict[str, t.Any]:
    return at_import
