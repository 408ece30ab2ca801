"""An app whose workers all end before they serve."""

from __future__ import annotations

import os

from flask import Flask

app = Flask(__name__)
os.register_at_fork(after_in_child=lambda: os._exit(7))
