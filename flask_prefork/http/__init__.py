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
        fields.py status and header fields of a response, checked
      error_response.py  the answer to what never reaches the app
      request_log.py a request's line in the log
        access_log.py    as flask run has it
        log_format.py    in the format that was asked for
        access_logger.py where it goes
      file_wrapper.py wsgi.file_wrapper
      writer.py   wfile
      takeover.py werkzeug.socket, and what becomes of a connection that is the app's
        app_socket.py     the socket of a plain one
        tls_app_socket.py the socket of a TLS one
        traffic.py        what the kernel has counted on it
      on_demand.py attributes of a handler that are made when asked for
      writer.py   wfile, for who writes past the response
    introduction.py the PROXY header before a connection's first byte
      proxy_protocol.py PURE: bytes to whom it is from
    forwarded.py  PURE: X-Forwarded-*
    peers.py      PURE: lists of proxies
    request_id.py a request's id
    wire.py       a client's socket: every wait has a deadline
    telling.py    the same for werkzeug's own handler, which knows no deadlines
    tls.py        the same for TLS, and the handshake
    contract.py   limits, and what a worker and this package say to each other
    errors.py     what goes wrong, with the status it is answered with
"""
