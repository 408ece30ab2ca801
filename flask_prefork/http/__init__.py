"""HTTP/1.1 to WSGI: all that knows werkzeug's and llhttp's insides.

::

    server.py     what the worker calls: serve() an accepted connection
    handler.py    one connection: requests, keep-alive, when to hand it back
      head.py     PURE: bytes to a request's head, or the refusal
      chunked.py  PURE: the chunked transfer coding
      body.py     wsgi.input
      environ.py  the WSGI environ
      response.py start_response, framing, sendfile
      access_log.py  a request's line in the log
    wire.py       a client's socket: every wait has a deadline
    contract.py   limits, and what a worker and this package say to each other
    errors.py     what goes wrong, with the status it is answered with
"""
