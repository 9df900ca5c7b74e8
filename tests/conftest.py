import os
import signal

import pytest
import torch

# Where there is no device, Triton's kernels are interpreted. It must be said before Triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# One thread: with two, tiny operators wait on each other's threads for milliseconds when the machine is busy.
torch.set_num_threads(1)

# Under nohup and in the background a shell has these ignored, and every process started from here would inherit that.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if signal.getsignal(number := getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture
def seed() -> int:
    """Seeds torch and prints the seed, so that a failure can be run again with STREAMMIX_TEST_SEED."""
    value = int(os.environ.get("STREAMMIX_TEST_SEED", "0")) or int.from_bytes(os.urandom(3), "big")
    print(f"STREAMMIX_TEST_SEED={value}")
    torch.manual_seed(value)
    return value
