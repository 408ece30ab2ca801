"""The sender: a process that sends the rest of responses to slow clients.

The dispatcher starts it when a worker hands over the first one, and gets the
connections back. So a client that is slow to take its response costs no worker. The
package imports ``ipc``, ``settings`` and ``system``. It must never read from a client,
import the app, or wait for a single client.
"""
