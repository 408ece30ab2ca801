"""The apps and libraries of the manual's page, each with its trial."""

from __future__ import annotations

from . import clients
from . import metrics
from . import queues
from . import sockets
from . import stores
from . import telemetry
from . import web
from .base import Trial

_MODULES = (web, sockets, stores, queues, telemetry, metrics, clients)
#: All trials by their names, in the order of the page.
TRIALS: dict[str, Trial] = {
    trial.name: trial for module in _MODULES for trial in module.TRIALS
}
