"""Injects pauses into each interpreter that has this directory on its path.

``pytest --pauses SEED`` puts it there for the servers of the tests.
"""

from __future__ import annotations

import os

import handovers

if handovers.VARIABLE in os.environ:
    handovers.inject(
        os.environ[handovers.VARIABLE], os.environ.get(handovers.RACE_VARIABLE, "")
    )
