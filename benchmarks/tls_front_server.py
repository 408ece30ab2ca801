"""TLS in front of our server's plain port.

``python tls_front_server.py haproxy|nginx PORT WORKERS FOLDER CERTIFICATE COMMAND...``:
the command is our server's, without TLS; its ``--port`` is chosen here. Both end with
this.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from process import free_port

HAPROXY = """\
global
    maxconn {most}
    nbthread {workers}
defaults
    mode http
    timeout client 300s
    timeout server 300s
    timeout connect 10s
    timeout http-request 300s
    timeout http-keep-alive 300s
frontend tls
    bind 127.0.0.1:{port} ssl crt {certificate} alpn http/1.1 backlog 1024
    default_backend app
backend app
    server app 127.0.0.1:{behind}
"""

NGINX = """\
daemon off;
{user}
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    keepalive_timeout 300s;
    keepalive_requests 100000000;
    client_header_timeout 300s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    upstream app {{ server 127.0.0.1:{behind}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} ssl backlog=1024;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

MOST = 9_500
"""HAProxy's connections: each has two descriptors, and 20,000 are usual."""


def config(
    program: str, port: int, behind: int, workers: int, folder: Path, certificate: Path
) -> str:
    """The text of the program's file.

    :param port: Where clients connect.
    :param behind: Our server's port.
    :param certificate: A file that has the key as well.
    """
    return (HAPROXY if program == "haproxy" else NGINX).format(
        port=port,
        behind=behind,
        workers=workers,
        folder=folder,
        certificate=certificate,
        most=MOST,
        # Else nginx's workers are nobody, who may not enter the folder.
        user="user root;" if os.geteuid() == 0 else "",
    )


def command(program: str, file: Path) -> list[str]:
    """How the program is started, so that it stays in the foreground."""
    if program == "haproxy":
        return ["haproxy", "-q", "-db", "-f", str(file)]

    return ["nginx", "-e", "stderr", "-c", str(file)]


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    program, port, workers, folder, certificate, *server = sys.argv[1:]
    behind = free_port()
    server[server.index("--port") + 1] = str(behind)
    file = Path(folder) / f"{program}.conf"
    words = (Path(folder), Path(certificate))
    file.write_text(config(program, int(port), behind, int(workers), *words))
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(0))
    running = [subprocess.Popen(server)]

    try:
        # It would answer 502 or 503 until then.
        while running[0].poll() is None and not _listens(behind):
            time.sleep(0.05)

        running.append(subprocess.Popen(command(program, file)))
        running[-1].wait()
    finally:
        for process in running:
            process.terminate()

        for process in running:
            process.wait()


if __name__ == "__main__":
    main()
