"""A module in which there is no app."""

from __future__ import annotations
