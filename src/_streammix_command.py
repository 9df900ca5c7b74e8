"""The command `streammix`: help and version at once, everything else once torch is loaded, which takes seconds.

A module of its own, because importing anything of the package imports torch.
"""

import sys

HELP = """\
Usage: streammix [--help] [--version] COMMAND ...

Hyper-connections for PyTorch: train, compare, inspect and measure them.

  train       Train one small byte-level language model.
  compare     Train several recipes on the same text, seed and budget, and report.
  sweep       Train every recipe with several seeds and set mean and spread of the results in one table.
  experiment  Run what a TOML file describes, with any number of workers, and put the results in tables.
  report      Put any number of runs on one page.
  data        Tokenise text of any size once, into a folder that every other command takes as text.
  inspect     Show what a trained model's read, write and mix maps look like.
  sample      Let a trained model write text.
  bench       Measure what the library costs, against what people use instead.

streammix COMMAND --help explains a command and its options.
"""


def main() -> None:
    arguments = sys.argv[1:]
    if arguments in ([], ["-h"], ["--help"]):
        print(HELP, end="")
        sys.exit(0 if arguments else 2)
    if arguments == ["--version"]:
        from importlib.metadata import version

        print(f"streammix {version('streammix')}")
        sys.exit(0)
    try:
        from streammix.cli import main as run
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "streammix":
            raise
        print(f"error: the commands need {error.name}: pip install 'streammix[lab]'", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
