"""The projection suite: how exact it is, and how fast against truncated Sinkhorn."""
