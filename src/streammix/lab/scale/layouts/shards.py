"""--parallel fsdp: FSDP2, connections in float32."""

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from streammix import distributed
from streammix.lab.model import GPT, MLP, Attention
from streammix.lab.scale.layouts.rows import Rows
from streammix.lab.text import Windows


class Shards(Rows):
    """Each process has a shard of every parameter, gradient and moment; a branch's are gathered while it runs.

    In bfloat16, parameters of branches, embedding and head are gathered in it, and the streams are in it; connections
    stay in float32.
    """

    def spread(self, model: GPT) -> None:
        policy = MixedPrecisionPolicy()
        if self.config.bf16:
            # Inputs are left as they are: tables of rotations would lose digits, and streams are in bfloat16 already.
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        model = model.to(self.team.device)
        self.module = distributed.shard(model, self.team.mesh, mp_policy=policy, units=[Attention, MLP])
        self.model = model

    def loss(self, inputs: Tensor, targets: Tensor, *, last: bool) -> Tensor:
        return self.model.loss(inputs, targets)

    def measure(self, batch: Windows) -> Tensor:
        share = super().measure(batch)
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what stays gathered for a backward pass, which does not follow
        return share
