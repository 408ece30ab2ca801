"""An app whose factory fails."""

from __future__ import annotations

import typing as t


def create_app() -> t.NoReturn:
    raise LookupError("the catalogue is missing")
