"""The zygote: the process that loads the app and forks the workers.

Each generation has one. It forks a worker when the dispatcher asks for it, reaps the
workers, and reports both. ``cli.py`` runs :class:`.process.Zygote`. ``lifecycle`` and
what it uses run in the workers too, for the app's hooks. The package imports
``worker``, ``http``, ``ipc``, ``settings`` and ``system``. It must never serve a
request, and never decide how many workers there are.
"""
