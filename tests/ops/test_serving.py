"""Exported programs where they are served: with torch and the native library alone, without this package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import streammix as sm

LIBRARY = next(Path(sm.__file__).parent.glob("_C*.so"), None)
pytestmark = [
    pytest.mark.skipif(LIBRARY is None, reason="the native library is not built"),
    pytest.mark.skipif(torch.__version__ < "2.11", reason="saving and loading is tested on newer torch"),
]
SERVE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
x, expected = torch.load(sys.argv[3], weights_only=True)
if sys.argv[2].endswith(".aoti.pt2"):
    model = torch._inductor.aoti_load_package(sys.argv[2])
else:
    model = torch.export.load(sys.argv[2]).module()
with torch.no_grad():
    torch.testing.assert_close(model(x), expected)
assert not [name for name in sys.modules if name.startswith("streammix")]
print("served")
"""


def exported(recipe: str, tmp_path: Path) -> tuple[torch.export.ExportedProgram, Path]:
    torch.manual_seed(0)
    branches = [nn.Sequential(nn.RMSNorm(16), nn.Linear(16, 16)) for _ in range(3)]
    model = sm.Stack(branches, 16, recipe=recipe).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x = torch.randn(2, 9, 16)
        torch.save((x, model(x)), tmp_path / "case.pt")
        return torch.export.export(model, (x,)), tmp_path / "case.pt"


def serve(program: Path, case: Path) -> None:
    command = [sys.executable, "-c", SERVE, str(LIBRARY), str(program), str(case)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=program.parent)
    assert done.stdout.strip() == "served", done.stderr[-2000:]


@pytest.mark.parametrize("recipe", ["mhc", "mhc-sinkhorn", "deepseek-v4", "hc", "go-mhc", "jpmhc-sinkhorn", "xhc"])
def test_an_exported_program_is_served(recipe, tmp_path):
    program, case = exported(recipe, tmp_path)
    torch.export.save(program, tmp_path / "model.pt2")
    serve(tmp_path / "model.pt2", case)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_aotinductor_package_is_served(tmp_path):
    program, case = exported("mhc", tmp_path)
    package = tmp_path / "model.aoti.pt2"
    torch._inductor.aoti_compile_and_package(program, package_path=str(package))
    serve(package, case)


def test_a_library_of_another_version_is_refused():
    from streammix.ops.registry import check_native

    check_native("read", "read(Tensor x, Tensor pre, int dim) -> Tensor")
    with pytest.raises(ImportError, match="the native library is of another version"):
        check_native("read", "read(Tensor x, Tensor pre, int n) -> Tensor")
    with pytest.raises(ImportError, match="it has nothing for"):
        check_native("unread", "unread(Tensor x) -> Tensor")
