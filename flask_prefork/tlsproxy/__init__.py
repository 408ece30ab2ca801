"""The TLS proxy: a process in which TLS ends, and which alone has the private key.

The dispatcher starts it where TLS is spoken. It connects to where workers accept, for
each client that has sent something. The package imports ``ipc``, ``settings`` and
``system``. It must never import the app, wait for a single client, or know what HTTP
is.
"""
