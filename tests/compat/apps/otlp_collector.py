"""A gRPC server that appends to a file the IDs in all that it is sent.

Usage: ``python otlp_collector.py FILE``. It prints its port.
"""

from __future__ import annotations

import re
import sys
import typing as t
from concurrent import futures

import grpc


class Everything(grpc.GenericRpcHandler):
    """Any method of any service: bytes come, nothing goes."""

    def __init__(self, file: t.IO[bytes]) -> None:
        self._file = file

    def service(self, details: t.Any) -> t.Any:
        return grpc.unary_unary_rpc_method_handler(self._take)

    def _take(self, request: bytes, context: t.Any) -> bytes:
        found = re.findall(rb"[a-z]+-[0-9a-f]{32}", request)
        self._file.write(b"".join(one + b"\n" for one in found))
        return b""


with open(sys.argv[1], "ab", buffering=0) as file:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([Everything(file)])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()
