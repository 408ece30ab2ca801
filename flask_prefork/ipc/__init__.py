"""What processes share: frames, the scoreboard, listening sockets."""
