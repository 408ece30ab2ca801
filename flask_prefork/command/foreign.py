"""Options of other servers, and what to use here instead. Pure.

The command's parser asks for those that it doesn't know. The manual has a table of the
settings that correspond to each other.
"""

from __future__ import annotations

import fnmatch

_ONE_REQUEST = (
    "A worker serves one request at a time, so there are no threads; use --max-workers"
    " for as many requests at once. --min-idle of them wait for the next ones, and they"
    " share the app's memory."
)
_COUNT = (
    "The number of workers follows the load: use --max-workers for the most of them,"
    " and --min-idle for those that wait. With --min-workers as high as --max-workers"
    " it is fixed."
)
_LISTEN = (
    "Use --host, such as --host 0.0.0.0:8000, once for each address; --host"
    " unix:/run/a.sock is a unix socket, and --host fd://3 an inherited one."
)
_APP = "The app is named before the command: flask --app module:name prefork-run."
_NO_FILE = (
    "There is no configuration file. Use options, variables such as"
    " FLASK_PREFORK_RUN_MIN_IDLE, also in .flaskenv, or keys of app.config such as"
    " PREFORK_MIN_IDLE."
)
_FOREGROUND = (
    "The server stays in the foreground, so that systemd, a container or another"
    " supervisor can watch it; --pid writes a pid file."
)
_DIRECTORY = (
    "Change the directory before: cd there, or use the supervisor's setting, such as"
    " systemd's WorkingDirectory=."
)
_ENVIRONMENT = (
    "Set variables before: in the environment, in .flaskenv, or in the supervisor's"
    " setting, such as systemd's Environment=. flask has --env-file, before the"
    " command."
)
_PATH = (
    "Set PYTHONPATH in the environment; flask adds the current directory to the path by"
    " itself."
)
_VENV = "Run the flask command of that environment, such as .venv/bin/flask."
_UMASK = (
    "Use --socket-mode, --socket-owner and --socket-group for unix sockets. The server"
    " keeps the umask that it is started with: set it before, or by systemd's UMask=."
)
_NO_PROTOCOL = (
    "The server speaks HTTP/1.1 and no other protocol; let the proxy in front of it use"
    " HTTP, and use --host 127.0.0.1:8000, or --host unix:/run/a.sock."
)
_LOADED_ONCE = "The app is always loaded once, before workers are forked."
_ALWAYS_MASTER = (
    "There is always a process that controls the workers, and that serves none."
)
_STATSD = (
    "There is no statsd. Use --admin, which serves /metrics for Prometheus and"
    " OpenTelemetry's collector, and /status.json."
)
_STATUS = "Use --admin, which serves a page, /status.json and /metrics."
_FILES = (
    "Let the proxy in front of the server serve static files, such as nginx; Flask"
    " serves those of its static folder."
)
_TIMER = "The server runs no jobs. Use a timer of systemd's, cron, or a task queue."
_JOBS = "The server runs no jobs beside requests. Use a task queue, such as Celery."
_NO_ASYNC = (
    "A worker serves one request at a time, and no event loop. Use --max-workers for"
    " more requests at once; connections that only wait for their client hold none."
)
_PARSING = "There is no such choice: requests that RFC 9112 doesn't allow are refused."
_PROXY_HEADERS = (
    "Use --forwarded-allow-ips for the proxies whose X-Forwarded-* headers are trusted."
)
_HOOK = "Use the hooks of flask_prefork.Prefork, or the signals of Flask."
_SYSLOG = (
    "The log goes to standard error, and from there to the journal or to whoever"
    " collects it, such as logger(1). --error-logfile makes it a file, and --log-config"
    " can name a handler such as logging.handlers.SysLogHandler."
)
_LOGGING = "Use --log-config, a file of JSON with what logging.config.dictConfig takes."
_ACCESS = "Use --access-logfile and --access-log-format, or --no-access-log."
_TLS = (
    "TLS 1.2 and 1.3 with strong ciphers are always used. For anything else name an"
    " SSL context: --cert module:context."
)
_RATE = (
    "Clients that are slow hold no worker: use --header-timeout, --keep-alive and"
    " --min-data-rate."
)
_WORKERS_BY_LOAD = (
    "The number of workers follows the load by itself: use --min-idle, --max-idle,"
    " --min-workers, --max-workers and --idle-timeout."
)
_TITLES = (
    "Process titles have a form of their own, so that tools can tell processes apart."
)
_UNNEEDED = "There is nothing to choose: the server does so, or doesn't need to."
_HEADERS = "Set headers in the app, by after_request, or in the proxy."
_ROUTING = "Let the app's URL map, werkzeug's DispatcherMiddleware or the proxy do so."
_RESOURCES = (
    "Use --max-worker-memory and --memory-budget for memory; other limits are the"
    " supervisor's, such as systemd's LimitNOFILE=."
)
_SEVERAL = "One server serves one app. Let systemd or another supervisor run several."

#: Names, separated by spaces, and what to use. ``*`` is the rest of a name. A name with
#: several meanings is in one row, with an answer for all of them.
_ROWS: tuple[tuple[str, str], ...] = (
    # Addresses
    ("--bind --listen --http --http-socket --uds --fd --https", _LISTEN),
    (
        "-b",
        f"{_LISTEN} uWSGI's -b, the size of a request's head, is --limit-request-line"
        " and --limit-request-field-size.",
    ),
    (
        "-l",
        f"{_LISTEN} uWSGI's -l, the length of the queue, is --backlog.",
    ),
    (
        "--socket -s --uwsgi-socket --fastcgi-socket --scgi-socket --protocol",
        _NO_PROTOCOL,
    ),
    (
        "--reuse-port --thunder-lock",
        "Workers share one listening socket, and one of them is woken for each"
        " connection, so this isn't needed.",
    ),
    ("--chmod-socket -C", "Use --socket-mode, such as --socket-mode 660."),
    ("--chown-socket", "Use --socket-owner and --socket-group."),
    (
        "--vacuum",
        "The server always removes its unix sockets and its pid file when it ends.",
    ),
    # Workers
    ("--workers --processes", _COUNT),
    (
        "-w",
        f"{_COUNT} uWSGI's -w, the app's module, is given before the command: flask"
        " --app module:name prefork-run.",
    ),
    ("--threads --enable-threads --worker-threads -T", _ONE_REQUEST),
    (
        "--with-threads --without-threads",
        "A worker serves one request at a time, and other workers serve others"
        " meanwhile; --max-workers is how many there may be.",
    ),
    (
        "-k --worker-class",
        "There is one kind of worker: a process that serves one request at a time. Use"
        " --max-workers for more at once. Connections that only wait for their client"
        " hold no worker, so gevent or gthread isn't needed for them.",
    ),
    (
        "--worker-connections --limit-concurrency --connection-limit",
        "A worker serves one request at a time; use --max-workers for the requests at"
        " once, and --max-queue for those that may wait.",
    ),
    ("--gevent --async --ugreen --asyncio --greenlet --tornado --loop", _NO_ASYNC),
    ("--ws --ws-*", f"{_NO_ASYNC} WebSockets are served by flask-sock and others."),
    (
        "--cheaper --cheaper-initial",
        "Use --min-idle and --min-workers for how many workers there are without load,"
        " and --max-workers for the most.",
    ),
    ("--cheaper-* --idle --cheap", _WORKERS_BY_LOAD),
    ("--master -M --single-interpreter -i --need-app", _ALWAYS_MASTER),
    ("--preload --preload-app", _LOADED_ONCE),
    (
        "--lazy --lazy-apps",
        f"{_LOADED_ONCE} Open in an after_fork hook what processes can't share.",
    ),
    (
        "--limit-max-requests --max-requests-delta",
        "Use --max-requests and --max-requests-jitter.",
    ),
    (
        "--max-worker-lifetime --min-worker-lifetime",
        "Workers are replaced by what they have served, or by their memory: use"
        " --max-requests or --max-worker-memory.",
    ),
    (
        "--reload-on-rss --evil-reload-on-rss --reload-on-as --evil-reload-on-as",
        "Use --max-worker-memory, such as 200M. It is about a worker's private memory.",
    ),
    (
        "--worker-tmp-dir",
        "Workers report to the server by shared memory without a file, so this isn't"
        " needed.",
    ),
    # Time
    ("--harakiri -t", "Use --timeout, the time without progress, such as 60s or 5m."),
    ("--harakiri-*", "Use --timeout. The traceback of who is late is always logged."),
    (
        "--worker-reload-mercy --reload-mercy --timeout-graceful-shutdown"
        " --channel-timeout --mule-reload-mercy",
        "Use --graceful-timeout.",
    ),
    (
        "--timeout-keep-alive --http-keepalive --so-keepalive",
        "Use --keep-alive, such as 15s; 0 closes connections after each response.",
    ),
    ("--http-timeout --socket-timeout --timeout-notify", _RATE),
    # Limits
    (
        "--buffer-size --h11-max-incomplete-event-size --max-request-header-size",
        "Use --limit-request-line, --limit-request-fields and"
        " --limit-request-field-size.",
    ),
    (
        "--limit-request-field_size --limit-request-fieldsize",
        "It is written --limit-request-field-size here.",
    ),
    ("--limit-post --max-request-body-size", "Use --limit-request-body, such as 10M."),
    (
        "--post-buffering --post-buffering-bufsize --inbuf-overflow",
        "Use --buffer-body: so much of a body is collected before the app is called.",
    ),
    ("--outbuf-overflow --outbuf-high-watermark", "Use --buffer-response."),
    ("--limit-as --limit-nproc --max-fd --rlimit-*", _RESOURCES),
    # The app
    ("--app -A --wsgi-app --module --wsgi --wsgi-file --file --callable --call", _APP),
    ("--mount --manage-script-name --route* --subscribe-to", _ROUTING),
    (
        "--root-path --url-prefix --script-name",
        "Let the proxy send X-Forwarded-Prefix, and use --forwarded-allow-ips.",
    ),
    ("--import --shared-import --spooler-import", "Import it in the app's module."),
    ("--factory", f"A factory is found by its name, or called: {_APP}"),
    ("--paste --paster --ini-paste --paste-logger", f"No Paste. {_APP}"),
    ("--config -c --ini --yaml --yml --json --xml --conf", _NO_FILE),
    ("--show-config", "Use --print-config."),
    ("--chdir --chdir2 --app-dir", _DIRECTORY),
    ("--env -e --env-file", _ENVIRONMENT),
    ("--pythonpath --python-path --pp --pypath", _PATH),
    ("--virtualenv --venv --home --pyhome -H", _VENV),
    (
        "--plugin --plugins",
        "There are no plugins: the command runs under the Python that it is installed"
        " for.",
    ),
    # The process
    ("--daemon -D --daemonize -d --daemonize2", _FOREGROUND),
    ("--pidfile --pidfile2 --safe-pidfile", "Use --pid."),
    ("--uid -u", "Use --user, by name or number."),
    ("--gid -g", "Use --group, by name or number."),
    (
        "--initgroups",
        "With --user the supplementary groups are always those of that user.",
    ),
    ("--umask -m", _UMASK),
    ("--proc-name --name -n --procname* --auto-procname", _TITLES),
    (
        "--die-on-term --hook-* --exec-* --on-starting",
        f"TERM always stops the server gracefully. {_HOOK}",
    ),
    ("--no-orphans", "Workers always end when the server has died."),
    ("--emperor --vassals-* --zerg* --legion*", _SEVERAL),
    ("--attach-daemon* --smart-attach-daemon*", _SEVERAL),
    ("--cron --cron2 --timer", _TIMER),
    ("--spooler* --mule --mules --farm", _JOBS),
    ("--cache --cache2 --caches", "There is no cache; use Redis or memcached."),
    (
        "--offload-threads",
        "Use --buffer-response: responses that are read slowly hold no worker.",
    ),
    ("--strict", "Unknown options are always errors."),
    # Reloading
    (
        "--reload-extra-file --reload-include",
        "Use --extra-files together with --reload.",
    ),
    ("--reload-exclude", "Use --exclude-patterns together with --reload."),
    (
        "--reload-engine --reload-dir --reload-delay",
        "Use --reload, and --extra-files for other files. With watchdog installed the"
        " system reports changes.",
    ),
    (
        "--py-autoreload --py-auto-reload --python-auto-reload --auto-reload",
        "Use --reload, or --debug.",
    ),
    (
        "--touch-reload --touch-chain-reload --touch-workers-reload --fs-reload",
        "Send HUP to the server: the app is loaded anew, and no request is lost."
        " --reload watches the app's files.",
    ),
    ("--spew", "Use --slow-log, or send USR2, for tracebacks of requests that run."),
    # Logging
    ("--access-logformat --logformat --log-format", "Use --access-log-format."),
    ("--disable-logging -L", "Use --no-access-log."),
    ("--log-file --errorlog --logto --logto2", "Use --error-logfile."),
    ("--capture-output --enable-stdio-inheritance -R --log-master", _SYSLOG),
    ("--log-syslog* --syslog* --rsyslog* --use-colors", _SYSLOG),
    ("--disable-redirect-access-to-syslog", _SYSLOG),
    ("--logger-class --logger --log-config-json", _LOGGING),
    ("--req-logger --log-4xx --log-5xx --log-x-forwarded-for --log-date", _ACCESS),
    (
        "--log-slow",
        "Use --slow-log, which has tracebacks; the access log's %(L)s is the duration.",
    ),
    # Proxies and TLS
    (
        "--proxy-headers --trusted-proxy* --forwarder-headers --header-map",
        _PROXY_HEADERS,
    ),
    ("--http-proxy-protocol --enable-proxy-protocol", "Use --proxy-protocol."),
    ("--certfile --ssl-certfile --ssl-cert", "Use --cert together with --key."),
    ("--keyfile --ssl-keyfile --ssl-key", "Use --key together with --cert."),
    (
        "--ssl-version --ciphers --ssl-ciphers --cert-reqs --ssl-cert-reqs --ca-certs"
        " --ssl-ca-certs --ssl-keyfile-password --do-handshake-on-connect"
        " --suppress-ragged-eofs",
        _TLS,
    ),
    # HTTP
    (
        "--permit-* --casefold-http-method --strip-header-spaces",
        _PARSING,
    ),
    ("--http-*", f"{_UNNEEDED} {_LISTEN}"),
    ("--no-sendfile", "Files are sent by sendfile(2) only where that is safe."),
    ("--static-* --check-static", _FILES),
    ("--add-header --response-headers-limit --date-header", _HEADERS),
    ("--no-date-header --ident", _HEADERS),
    ("--ignore-sigpipe --ignore-write-errors --disable-write-exception", _UNNEEDED),
    # Status
    ("--statsd-* --dogstatsd-tags --carbon* --snmp* --metric*", _STATSD),
    ("--enable-backlog-metric", _STATUS),
    ("--stats --stats-* --memory-report --control-socket*", _STATUS),
    ("--version -v", "Use flask --version, before the command."),
)

#: What to use instead of an option, by its name, which may end with ``*``.
FOREIGN: dict[str, str] = {
    name: answer for names, answer in _ROWS for name in names.split()
}


def answer(option: str) -> str | None:
    """What is right where another server's option was given.

    :param option: As it was given, without its value.
    :return: An error's text; ``None`` if no server is known that has it.
    """
    found = FOREIGN.get(option)
    if found is None:
        patterns = (name for name in FOREIGN if name.endswith("*"))
        name = next((one for one in patterns if fnmatch.fnmatchcase(option, one)), "")
        found = FOREIGN.get(name)
    return None if found is None else f"There is no {option} here. {found}"
