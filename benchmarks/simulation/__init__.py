"""Servers that scale their pool, replayed on the same arrivals without a process.

``traffic`` makes the requests, ``engine`` simulates time, connections and processes,
and ``ours`` and ``peers`` are the servers. ``cases`` lists what is run, ``results`` has
the figures, and ``report`` and ``plots`` show them. ``benchmarks/simulate.py`` is the
command.
"""
