"""The device suite: what the projection, a site and a training step cost on a GPU, in time and against a copy."""
