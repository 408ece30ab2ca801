"""HTTP/1.1 to WSGI: all that knows the internals of werkzeug and llhttp.

Workers run it: :meth:`.server.PreforkServer.serve` serves an accepted connection, and
returns how to park it if it has to wait. The observer serves its site by it. The
package imports ``system``. It must never wait for a client without a deadline. It must
not know frames, scoreboard and settings: its caller hands in a
:class:`.monitor.Monitor` and :class:`.limits.Limits`.
"""
