"""The compat suite: training steps of the PyPI package hyper-connections and of its names on our operators."""
