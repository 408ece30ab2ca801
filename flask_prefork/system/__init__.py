"""Linux and POSIX: what the server needs from the system.

All processes run it. The package imports no other one of ours. It must not depend on
what a worker, a generation or a setting is: its callers hand in what it needs to know.
"""
