"""Loads only when the test's gate, at the port ``GATE``, is closed."""

from __future__ import annotations

import json
import os
import socket

from flask import Flask

app = Flask(__name__)

with socket.create_connection(("127.0.0.1", int(os.environ["GATE"]))) as gate:
    gate.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
    gate.recv(1)
