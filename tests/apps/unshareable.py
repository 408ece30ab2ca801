"""Has at import what workers can't share; the port of a peer is in ``PEER``."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

from flask import Flask

app = Flask(__name__)
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
peer = socket.create_connection(("127.0.0.1", int(os.environ["PEER"])))
loop = asyncio.new_event_loop()
