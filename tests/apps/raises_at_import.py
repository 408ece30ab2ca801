"""An app that can't be loaded."""

from __future__ import annotations

raise LookupError("the catalogue is missing")
