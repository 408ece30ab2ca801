"""gunicorn behind nginx: ``python nginx_server.py PORT WORKERS APP FOLDER``.

nginx buffers requests and responses, as it does by default. Both end with this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from servers import heartbeat

CONFIG = """\
daemon off;
{user}
worker_processes 2;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{ proxy_pass http://unix:{folder}/gunicorn.sock; }}
    }}
}}
"""


def main() -> None:
    port, workers, app, folder = sys.argv[1:]
    config = Path(folder) / "nginx.conf"
    # Else its workers are nobody, who may not enter the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(CONFIG.format(user=user, folder=folder, port=port))
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(0))
    address = Path(folder) / "gunicorn.sock"
    gunicorn = [
        *(sys.executable, "-m", "gunicorn", "--bind", f"unix:{address}"),
        *("--workers", workers, "--log-level", "error", *heartbeat()),
        f"apps:{app}",
    ]
    running = [subprocess.Popen(gunicorn)]

    try:
        # nginx would answer 502 until then.
        while not address.exists() and running[0].poll() is None:
            time.sleep(0.05)

        running.append(subprocess.Popen(["nginx", "-e", "stderr", "-c", str(config)]))
        running[-1].wait()
    finally:
        for process in running:
            process.terminate()

        for process in running:
            process.wait()


if __name__ == "__main__":
    main()
