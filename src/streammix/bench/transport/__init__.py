"""The transport suite: accuracy, time and memory of `sm.transport` at its uses, beside POT and unrolled Sinkhorn."""
