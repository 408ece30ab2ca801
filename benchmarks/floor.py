"""The floor: accept, receive, send, close, without looking at the request.

``python floor.py PORT PROCESSES``. No server in Python can need less. The app, which
other servers have on the command line, is ignored.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import typing as t

from apps import BODY

RESPONSE = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: floor\r\n"
    b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: %d\r\n"
    b"Connection: close\r\n\r\n" % len(BODY)
) + BODY


def serve(listener: socket.socket) -> t.NoReturn:
    while True:
        connection = listener.accept()[0]

        try:
            connection.recv(65536)
            connection.send(RESPONSE)
        except OSError:
            pass  # The client left.
        finally:
            connection.close()


def main() -> None:
    port, processes = map(int, sys.argv[1:3])
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    children = []

    for _ in range(processes):
        pid = os.fork()

        if pid == 0:
            serve(listener)

        children.append(pid)

    signal.sigwait({signal.SIGTERM})

    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    # Blocked for sigwait(); the children, which keep it so, are killed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
