"""A worker: a process that accepts connections and serves requests, one at a time.

The zygote forks it and calls :func:`.main.serve`. It waits for the dispatcher's orders,
passes each connection to ``http``, and reports what it does. The package imports
``http``, ``ipc``, ``settings`` and ``system``. It must never accept without an order,
except with ``--dispatch blocking``, and never write to another worker's record on the
scoreboard. ``at_exit`` and ``leaving`` also end the zygote.
"""
