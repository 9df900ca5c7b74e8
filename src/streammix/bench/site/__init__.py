"""The site suite: what hyper-connections cost against a plain residual, and against the machine's memory speed."""
