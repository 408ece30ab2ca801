"""A worker: the process that accepts connections and serves requests."""
