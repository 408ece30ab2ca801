"""Servers that scale their pool, replayed on the same arrivals without a process.

``traffic`` makes requests, ``engine`` lets time pass, ``ours`` and ``peers`` are the
servers, ``cases`` says what is run, ``results`` sums up and ``report`` and ``plots``
show it. ``benchmarks/simulate.py`` is the command.
"""
