"""Takes its configuration from the environment variable ``CONFIG``, as JSON."""

from __future__ import annotations

import json
import os

from flask import Flask

app = Flask(__name__)
app.config.from_mapping(json.loads(os.environ.get("CONFIG", "{}")))
