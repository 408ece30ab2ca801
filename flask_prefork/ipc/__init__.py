"""What the processes of a server share: frames, the scoreboard, listening sockets.

All processes run it. The package imports ``settings`` and ``system``. It must not
decide anything: it says how something is sent, stored or opened, and the packages of
the processes say when.
"""
