"""Models with connections on many devices: on torch's own FSDP2, tensor and sequence parallelism, and pipelining.

What these engines do not know of connections is here: parameters that stay in float32, streams that are sharded on
tokens, and which stage of a pipeline begins and ends the streams.
"""

from .fsdp import islands, shard
from .pipeline import StackStage, StageRule, stage_rules
from .tokens import ReplicateParallel, TokenParallel, reduce_gradients, token_plan

__all__ = [
    "ReplicateParallel",
    "StackStage",
    "StageRule",
    "TokenParallel",
    "islands",
    "reduce_gradients",
    "shard",
    "stage_rules",
    "token_plan",
]
