"""The app hello in a server whose steps are stamped, see ``stamps.py``.

``flask --app`` loads it before the workers are forked.
"""

from __future__ import annotations

import os
from pathlib import Path

from apps import hello as app
from stamps import Stamps
from stamps import Times

__all__ = ["app"]

Stamps(
    Times(Path(os.environ["BENCHMARK_STAMPS"]), int(os.environ["BENCHMARK_WORKERS"]))
).install(app)
