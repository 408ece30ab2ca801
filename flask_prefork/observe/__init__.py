"""What is seen of a running server from outside, while it may be saturated.

The dispatcher writes its figures to the shared scoreboard and workers their records.
The observer, a process of its own, makes a :class:`.snapshot.Snapshot` of them and
serves it as JSON, as metrics and as a page; ``flask prefork-status`` asks it.
"""
