"""The Flask extension: defaults of the configuration, and hooks.

Apps make a :class:`Prefork` while they are loaded. The zygote finds it in the app that
the command has loaded: ``zygote/loading.py`` for its configuration,
``zygote/lifecycle.py`` for its hooks.
"""

from __future__ import annotations

import typing as t
import weakref

from .settings.table import config_key
from .settings.table import ROWS
from .zygote.hooks import F
from .zygote.hooks import Hooks
from .zygote.hooks import LIMIT
from .zygote.hooks import STREAMS_BODY

if t.TYPE_CHECKING:
    from flask import Flask

View = t.TypeVar("View", bound=t.Callable[..., t.Any])


class Prefork:
    """Hooks and defaults for apps that ``flask prefork-run`` serves.

    Apps without it are served too. One extension may be initialized for several
    apps, and an app has at most one. Only hooks of the app that the command has
    loaded are called. If another app is mounted in it, as by werkzeug's
    ``DispatcherMiddleware``, its hooks are ignored.

    ::

        prefork = Prefork()

        @prefork.after_fork
        def connect():
            current_app.extensions["queue"] = Queue.connect()

        def create_app():
            app = Flask(__name__)
            prefork.init_app(app)
            return app

    Hooks take no arguments and are called with the app's context pushed. They may
    be coroutines, as views may (``Flask.ensure_sync``). An exception of a hook is
    logged with its traceback and the hook's name.

    :param app: Initialize this app at once.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.hooks = Hooks()
        self.streamed: set[str] = set()
        self._defaulted: weakref.WeakKeyDictionary[Flask, frozenset[str]]
        self._defaulted = weakref.WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register with an app, and give its configuration the defaults.

        It sets each ``PREFORK_*`` key that has a fixed default and isn't set yet. Keys
        whose default depends on other settings are not set. Options of the command
        line still take precedence over these defaults.

        :param app: The app. It gets this extension as ``app.extensions["prefork"]``.
        :raises RuntimeError: If the app has such an extension already.
        """
        if "prefork" in app.extensions:
            raise RuntimeError(
                "A 'Prefork' instance has already been registered on this Flask"
                " app. Import and use that instance instead."
            )
        app.extensions["prefork"] = self
        defaulted = set()
        for name, row in ROWS.items():
            key = config_key(name)
            if row.default is not None and key not in app.config:
                app.config.setdefault(key, row.default)
                defaulted.add(key)
        self._defaulted[app] = frozenset(defaulted)

    def configuration(self, app: Flask) -> dict[str, t.Any]:
        """The app's configuration without the defaults that came from here.

        One that the app has set to the same value afterwards can't be told from
        the default.
        """
        defaults = {config_key(name): row.default for name, row in ROWS.items()}
        defaulted = self._defaulted.get(app, frozenset())
        return {
            key: value
            for key, value in app.config.items()
            if key not in defaulted or value != defaults[key]
        }

    def before_fork(self, f: F) -> F:
        """Call a function in the zygote before each fork of a worker.

        If it raises an exception, the worker is not forked, and the server tries
        again after a pause that grows. No worker is started while the function runs.
        """
        self.hooks.before_fork.append(f)
        return f

    def after_fork(self, f: F) -> F:
        """Call a function in each worker before its first request.

        Open here what processes can't share: connections, threads, event loops. If
        it raises an exception, the worker exits and another one is started, after a
        pause that grows. If no worker ever becomes ready, the server ends.
        """
        self.hooks.after_fork.append(f)
        return f

    def before_exit(self, f: F) -> F:
        """Call a function in each worker that exits, after its last request.

        It isn't called in a worker that is killed, and not if ``after_fork`` has
        failed. The function that was registered last is called first. If one raises
        an exception, the others are still called. All of them together must finish
        within the graceful timeout.
        """
        self.hooks.before_exit.append(f)
        return f

    @t.overload
    def stream_body(self, view: View) -> View: ...

    @t.overload
    def stream_body(self, view: str) -> None: ...

    def stream_body(self, view: View | str) -> View | None:
        """Let a view read its request's body while it comes.

        Bodies are collected before the app is called, so that slow clients hold no
        worker. For this view they aren't: it is called when the head is there, and
        waits for the client itself. It can refuse a body that it doesn't want before
        the client sends it. ::

            @app.post("/upload")
            @prefork.stream_body
            def upload():
                for line in request.stream:
                    ...

        The route that counts is the one that the app's URL map has for the request as
        it was received. A middleware that changes the path isn't asked.

        :param view: The view function, or for a view of somebody else's the name of its
            endpoint, such as ``"files.upload"``.
        """
        if isinstance(view, str):
            self.streamed.add(view)
            return None
        # Decorators that are applied later copy it (functools.wraps).
        setattr(view, STREAMS_BODY, True)
        return view

    def limit(
        self,
        concurrency: int | None = None,
        timeout: float | str | None = None,
        queue_timeout: float | str | None = None,
    ) -> t.Callable[[View], View]:
        """Limit a view: how many of its requests run at once, and how long they may
        take. ::

            @app.get("/report/<name>")
            @prefork.limit(concurrency=2, timeout=300)
            def report(name):
                ...

        The limit is exact over all workers and generations. Who waits for a permit
        holds no worker, and is served in the order of arrival. All rules of the view's
        endpoint share the limit. The route that counts is the one that the app's URL
        map has for the request as it was received. ``PREFORK_LIMITS`` limits views of
        others.

        :param concurrency: Requests that may run at once; ``None`` for any number.
        :param timeout: Seconds without progress after which a request is aborted, or a
            time such as ``"5m"``; 0 is never, ``None`` as the setting ``timeout``.
        :param queue_timeout: Seconds after which a request that still waits is answered
            with 503, or a time such as ``"500ms"``; 0 is never, ``None`` as the setting
            ``queue-timeout``.
        :raises ValueError: A value makes no sense, or there is none.
        """
        # Every command of flask's imports this file.
        from .settings.limits import parse

        fields = {
            "concurrency": concurrency,
            "timeout": timeout,
            "queue_timeout": queue_timeout,
        }
        parse("", fields, "Prefork.limit()")

        def decorate(view: View) -> View:
            # Decorators that are applied later copy it (functools.wraps).
            setattr(view, LIMIT, fields)
            return view

        return decorate

    def when_ready(self, f: F) -> F:
        """Call a function in the zygote, once, when its workers serve.

        After a reload that is when the new generation begins to serve. If it raises
        an exception, the server continues. No worker is started while the function
        runs.
        """
        self.hooks.when_ready.append(f)
        return f

    def when_ended(self, f: F) -> F:
        """Call a function in the zygote, once, when its last worker has ended.

        That is when the server stops, and after a reload in the old generation. It
        isn't called in a generation that never served, or whose zygote is killed. The
        function that was registered last is called first. If one raises an exception,
        the others are still called. All of them together, and the at-exit handlers
        that come after them, must finish within the graceful timeout.
        """
        self.hooks.when_ended.append(f)
        return f
