import os

import pytest
import torch

# One thread: with two, tiny operators wait on each other's threads for milliseconds when the machine is busy.
torch.set_num_threads(1)


@pytest.fixture
def seed() -> int:
    """Seeds torch and prints the seed, so that a failure can be run again with STREAMMIX_TEST_SEED."""
    value = int(os.environ.get("STREAMMIX_TEST_SEED", "0")) or int.from_bytes(os.urandom(3), "big")
    print(f"STREAMMIX_TEST_SEED={value}")
    torch.manual_seed(value)
    return value
