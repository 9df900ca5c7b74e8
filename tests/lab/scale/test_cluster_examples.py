"""The examples for clusters are well-formed, and ask streammix for what it has."""

import re
import subprocess
from pathlib import Path

import typer.main
import yaml

from streammix import cli

EXAMPLES = Path(__file__).parents[3] / "examples"


def options_of_train() -> set[str]:
    command = typer.main.get_command(cli.app)
    return {name for parameter in command.commands["train"].params for name in parameter.opts}  # type: ignore[attr-defined]


def test_the_batch_script_is_one_and_its_options_are_those_of_train() -> None:
    script = EXAMPLES / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    _, _, after = script.read_text().partition("-m streammix train")
    words = set(re.findall(r"--[a-z0-9-]+", after.partition("\n\n")[0]))
    assert {"--parallel", "--resume", "--out"} <= words <= options_of_train()


def test_the_job_of_kubernetes_parses_and_its_options_are_those_of_train() -> None:
    job = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text())
    assert job["kind"] == "PyTorchJob"
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert container["command"] == ["torchrun", "-m", "streammix"]
    assert container["args"][0] == "train"
    words = {word.partition("=")[0] for word in container["args"] if word.startswith("--")}
    assert {"--parallel", "--resume", "--out"} <= words <= options_of_train()
