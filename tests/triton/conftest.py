import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import interpreting
import torch

if not torch.cuda.is_available():
    interpreting.mend()
