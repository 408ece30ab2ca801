"""A soak test: mixed load and faults for a long time, and an account of every request.

``python benchmarks soak`` runs it. :mod:`.run` begins, :mod:`.account` judges.
"""
