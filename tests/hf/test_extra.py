"""`sm.hf` is loaded when it is asked for, and says what to install."""

import subprocess
import sys


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_importing_streammix_imports_no_extra():
    assert run("import sys, streammix; print({'transformers', 'peft', 'timm'} & set(sys.modules))") == "set()\n"


def test_without_transformers():
    program = """
import sys
sys.modules["transformers"] = None
import streammix as sm
try:
    sm.hf
except ImportError as error:
    print(error)
"""
    expected = "streammix.hf needs transformers, which is not installed: pip install 'streammix[transformers]'\n"
    assert run(program) == expected
