"""What is logged when the server begins to serve.

The dispatcher calls :func:`show` once, when the first workers are idle. A reload is
announced by ``generations.py`` instead.
"""

from __future__ import annotations

import os

from ..settings.table import option_name
from ..settings.table import resolve
from ..settings.table import ROWS
from ..settings.table import Settings
from ..system.log import logger
from .generation import Generation
from .queues import Queues
from .service import ServiceHost


def _changed(settings: Settings) -> str:
    """The settings that aren't what they are without any option or key."""
    usual = resolve({})
    changed = []
    for name, row in ROWS.items():
        value = getattr(settings, name)
        if value != getattr(usual, name):
            shown = "is set" if row.secret else row.shown(value)
            changed.append(f"{option_name(name).removeprefix('--')} {shown}")
    return ", ".join(changed) or "none"


def show(generation: Generation, queues: Queues, service: ServiceHost) -> None:
    """Say what runs where. Whoever reads it can connect at once.

    :param generation: The one that serves.
    """
    settings = generation.settings
    assert settings is not None, "nothing is served before the app is loaded"
    for listener in queues.listeners:
        for address in listener.addresses(service.start_options.scheme):
            logger.info("Running on %s", address)
    if service.admin_address is not None:
        logger.info("Status on %s", service.admin_address.reached().url)
        if not (service.admin_address.is_local or settings.admin_token):
            logger.warning(
                "Whoever reaches %s can see what is served; an --admin-token would"
                " keep others out.",
                service.admin_address,
            )
    if service.agent_address is not None:
        logger.info("Agent check on %s", service.agent_address.reached())
    logger.info(
        "Generation %d serves: %d to %d workers, %d to %d idle, %s dispatch",
        generation.number,
        settings.min_workers,
        settings.max_workers,
        settings.min_idle,
        settings.max_idle,
        settings.dispatch,
    )
    logger.info(
        "Settings other than the defaults, besides host, port and TLS: %s.",
        _changed(settings),
    )
    logger.info("Dispatcher %d, zygote %d", os.getpid(), generation.pid)
    logger.info("Press CTRL+C to quit")
