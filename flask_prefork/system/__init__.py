"""Linux and POSIX, without a concept of this server."""
