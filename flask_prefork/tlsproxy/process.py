"""The TLS proxy's process: what it does before its loop.

In this order: certificates and keys are read with the rights of who has started the
server, these rights are given up, other processes of the same user are kept from
looking into this one's memory, and only then there is a first ping to the dispatcher,
which answers with the listening sockets.
"""

from __future__ import annotations

import gc
import os
import socket
import ssl
import sys
import typing as t
from collections.abc import Sequence

from ..ipc import spawn
from ..ipc.channel import Channel
from ..ipc.channel import read_document
from ..ipc.channel import receive_one
from ..ipc.channel import send_one
from ..ipc.exits import BAD_CONFIGURATION
from ..ipc.frames import Accepting
from ..ipc.frames import Listen
from ..ipc.frames import Ping
from ..ipc.tls_listener import FILES
from ..settings.certificates import Certificate
from ..system import log
from ..system import peers
from ..system import privileges
from ..system import socket_modes
from ..system.client_certificates import ClientCertificates
from ..system.descriptors import raise_descriptor_limit
from ..system.log import logger
from .contexts import CertificateError
from .contexts import make_context
from .contexts import readable_by_others
from .group import ProxyGroup
from .proxy import Proxy

#: Of so many cores one is enough for TLS; apps need the others.
_CORES = 4


def main(
    fd: int,
    certificates: Sequence[tuple[str, str]],
    identity: tuple[t.Any, ...] | None,
) -> t.NoReturn:
    """Be the TLS proxy, in a fresh interpreter.

    :param fd: Our end of the channel.
    :param certificates: See :class:`.settings.certificates.Certificate`.
    :param identity: Whom to become, if anybody else (:class:`.privileges.Identity`).
    """
    log.set_up_as_told("tlsproxy")
    spawn.ignore_foreign_signals()
    os.set_inheritable(fd, False)
    wanted = [Certificate(*one) for one in certificates]
    sys.unraisablehook = _ignore_names
    try:
        context = make_context(wanted)
        for path in readable_by_others(wanted):
            logger.warning("All users may read the key %s (chmod 600).", path)
    except CertificateError as e:
        logger.error("%s", e)
        os._exit(BAD_CONFIGURATION)
    if identity is not None:
        privileges.drop(privileges.Identity(*identity))
    privileges.hide_memory()
    sock = socket_modes.adopt(fd, blocking=True)
    send_one(sock, Ping())
    received = receive_one(sock)
    if received is None or not isinstance(received[0], Listen):
        os._exit(0)
    document, *sockets = received[1]
    settings = read_document(document)
    listeners: list[socket.socket] = []
    names: list[str | bytes] = []
    for name in settings["names"]:
        listeners.append(socket_modes.adopt(sockets.pop(0), blocking=False))
        if name is None:
            names.append(f"{FILES}/{sockets.pop(0)}")
        else:
            names.append(bytes.fromhex(name))
    allowed = settings["proxy_allow_from"]
    processes = settings["processes"] or max(_usable_cores() // _CORES, 1)
    channel = Channel(sock)
    clients = None
    if context.verify_mode is not ssl.CERT_NONE:
        clients = ClientCertificates(processes)

    def serve(channel: Channel, index: int) -> None:
        if clients is not None:
            clients.take_part(index)
        Proxy(
            channel,
            context,
            listeners,
            names,
            settings["timeout"],
            None if allowed is None else peers.parse(allowed),
            raise_descriptor_limit(),
            settings["number"],
            clients,
            processes,
        ).run()

    logger.debug("It is ready, with %d processes.", processes)
    channel.send(Accepting(0), () if clients is None else (clients.fd,))
    if processes == 1:
        serve(channel, 0)
    else:
        gc.freeze()
        ProxyGroup(channel, serve, processes, listeners).run()
    os._exit(0)


def _ignore_names(problem: t.Any) -> None:
    """Pass over server names that are no ASCII: their handshakes fail, and that is
    logged.

    The ssl module reports each with a traceback before anybody can handle it.
    """
    if not isinstance(problem.exc_value, UnicodeDecodeError):
        sys.__unraisablehook__(problem)


def _usable_cores() -> int:
    """How many cores this process may use (``sched_getaffinity(2)``)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
