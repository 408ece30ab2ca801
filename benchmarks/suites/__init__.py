"""What is measured: a module for each question."""

from __future__ import annotations

from .dispatch import DISPATCH
from .latency import LATENCY
from .memory import MEMORY
from .overload import OVERLOAD
from .reaction import REACTION
from .slow_clients import SLOW_CLIENTS
from .suite import Suite
from .throughput import THROUGHPUT
from .tls import TLS

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        THROUGHPUT,
        LATENCY,
        DISPATCH,
        REACTION,
        MEMORY,
        SLOW_CLIENTS,
        OVERLOAD,
        TLS,
    )
}
"""In the order in which they run."""
