"""The dispatcher: the process that the user starts, and that controls all others.

It binds the listening sockets and polls them, orders workers to accept, and decides how
many workers there are. ``cli.py`` runs :func:`.loop.serve`. The package imports
``ipc``, ``settings`` and ``system``. It must never import the app, Flask or werkzeug,
never read a byte from a client, and never wait for anything but its poll. Modules that
call themselves pure decide; the others do what was decided.
"""
