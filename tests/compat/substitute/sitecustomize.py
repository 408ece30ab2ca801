"""Read by every interpreter that a test of werkzeug's starts: see ``stand_in``."""

from __future__ import annotations

import stand_in

stand_in.install()
