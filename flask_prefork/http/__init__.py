"""HTTP/1.1 to WSGI: all that knows werkzeug's and llhttp's insides.

::

    server.py     what the worker calls: serve() an accepted connection
    connection.py one connection: heads, keep-alive, when to hand it back
    handler.py    one request: from its head to the app and back
      head.py     PURE: bytes to a request's head, or the refusal
      target.py   PURE: the request target and the host
      chunked.py  PURE: the chunked transfer coding
      body.py     wsgi.input
      environ.py  the WSGI environ
      response.py start_response, framing, sendfile
      error_response.py  the answer to what never reaches the app
      access_log.py  a request's line in the log
      on_demand.py attributes of a handler that are made when asked for
    wire.py       a client's socket: every wait has a deadline
    tls.py        the same for TLS, and the handshake
    contract.py   limits, and what a worker and this package say to each other
    errors.py     what goes wrong, with the status it is answered with
"""
