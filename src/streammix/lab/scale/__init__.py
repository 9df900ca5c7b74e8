"""The lab's training on several processes, by torch's own engines: `torchrun ... -m streammix train --parallel tp`."""

from .settings import PARALLEL, Scale, launched, rank_of_launch

__all__ = ["PARALLEL", "Scale", "launched", "rank_of_launch"]
