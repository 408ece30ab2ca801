"""What is seen of a running server from outside, even while all workers are busy.

The observer is a process of its own. It makes a :class:`.snapshot.Snapshot` of the
scoreboard, and serves it as a page, as JSON and as metrics. The command ``flask
prefork-status`` asks it. The package imports ``http``, ``ipc``, ``settings`` and
``system``. It must never write to the scoreboard, and never need an answer from another
process.
"""
