"""TOML files of experiments: what they mean, and errors that name the key, the value and what is accepted."""

from collections import Counter
from pathlib import Path

import pytest

from streammix.lab.errors import LabError
from streammix.lab.experiment.plan import Experiment
from streammix.lab.experiment.reading import parse, read_experiment
from streammix.lab.sizes import count_parameters

ROOT = Path(__file__).parents[3]
SMALL = 'recipes = ["residual", "mhc"]\nlrs = [1e-3, 2e-3]\nseeds = [0, 1, 2]\n'
KEYS = ["d4d7880fed29", "880d422d6490"]  # of the first two runs of SMALL, when keys were introduced
SETTINGS = "[settings]\ndim = 16\nheads = 2\nlayers = 2\n"


def experiment(source: str) -> Experiment:
    return parse(source + SETTINGS, Path("/somewhere"))


def labels(made: Experiment) -> list[tuple[str, str]]:
    return [(case.group, case.label) for case in made.cases]


def test_every_recipe_rate_and_seed_is_a_run() -> None:
    made = experiment(SMALL)
    runs = [(run.arm, run.config.recipe, run.config.lr, run.config.seed) for run in made.runs({})]
    assert runs == [(r, r, lr, seed) for seed in (0, 1, 2) for r in ("residual", "mhc") for lr in (1e-3, 2e-3)]
    assert made.count() == 12
    assert made.compared_with == ("residual",)
    assert {run.config.dim for run in made.runs({})} == {16}


def test_later_seeds_wait_for_the_rates_of_the_first() -> None:
    made = experiment(SMALL + "tuning_seeds = 2\n")
    first = list(made.runs({}))
    assert Counter(run.config.seed for run in first) == {0: 4, 1: 4}
    losses = {run.key: 3.0 if run.config.lr == 2e-3 else 2.0 for run in first}
    losses |= {run.key: float("inf") for run in first if (run.arm, run.config.lr, run.config.seed) == ("mhc", 1e-3, 1)}
    rest = [(run.arm, run.config.lr, run.config.seed) for run in made.runs(losses)][8:]
    assert rest == [("residual", 1e-3, 2), ("mhc", 2e-3, 2)]  # of the rates at which mhc did not diverge
    assert made.count() == 10
    del losses[first[0].key]
    assert [run.arm for run in made.runs(losses)][8:] == ["mhc"]


def test_sizes_and_shared_axes_are_groups_and_axes_of_streams_are_arms() -> None:
    axes = "[axes]\nqk_norm = [false, true]\nstart = [-8.0, -2.0]\n"
    made = experiment(SMALL + axes + "[sizes.s]\n[sizes.l]\nlayers = 3\n")
    arms = ["residual", "mhc start=-8", "mhc start=-2"]
    groups = [f"{size} qk_norm={word}" for size in "sl" for word in ("false", "true")]
    assert labels(made) == [(group, arm) for group in groups for arm in arms]
    last = made.cases[-1].config
    assert (last.layers, last.qk_norm, last.start) == (3, True, -2.0)
    assert made.cases[0].config.start is None


def test_an_arm_is_a_recipe_with_other_settings() -> None:
    five = '[arms.five]\nrecipe = "mhc"\nmanifold = "sinkhorn"\nrounds = 5\n'
    made = experiment(SMALL + five + "[arms.ihc]\nstreams = 2\n")
    assert labels(made) == [("", "residual"), ("", "mhc"), ("", "five"), ("", "ihc")]
    truncated, ihc = (case.config for case in made.cases[2:])
    assert (truncated.recipe, truncated.manifold, truncated.rounds) == ("mhc", "sinkhorn", 5)
    assert (ihc.recipe, ihc.streams) == ("ihc", 2)


def test_a_control_is_as_large_as_another_arm() -> None:
    source = SMALL + '[arms.wide]\nrecipe = "residual"\nsame_parameters_as = "mhc"\n[sizes.s]\n[sizes.l]\ndim = 32\n'
    for size, mhc, wide in zip("sl", *([case.config for case in experiment(source).cases][k::3] for k in (1, 2))):
        unit = 3 * wide.dim * wide.layers  # parameters of a hidden unit
        assert abs(count_parameters(mhc) - count_parameters(wide)) <= unit / 2, size
        assert wide.recipe == "residual"


def test_rates_may_belong_to_a_size() -> None:
    made = experiment(SMALL + "[sizes.s]\n[sizes.l]\nlrs = [5e-4]\n")
    assert [case.lrs for case in made.cases] == [(1e-3, 2e-3)] * 2 + [(5e-4,)] * 2
    assert made.count() == 18


def test_a_run_is_the_same_wherever_it_is_trained_and_however_it_is_written() -> None:
    keys = [run.key for run in experiment(SMALL).runs({})]
    elsewhere = experiment(SMALL.replace("1e-3", "0.001") + 'text = ["other"]\n')
    assert [run.key for run in elsewhere.runs({})] == keys
    moved = parse(SMALL + SETTINGS + 'threads = 3\ndevice = "cpu"\ncheckpoint_every = 7\n', Path("/elsewhere"))
    assert [run.key for run in moved.runs({})] == keys
    assert parse(SMALL + SETTINGS + "steps = 7\n", Path("/")).cases[0].run(1e-3, 0).key not in keys
    assert len({run.name for run in experiment(SMALL).runs({})}) == 12


def test_results_that_were_kept_are_found_by_later_versions() -> None:
    """Settings that are added to the lab leave the keys of runs without them as they are."""
    assert [run.key for run in experiment(SMALL).runs({})][:2] == KEYS
    assert parse(SMALL + SETTINGS + "vocabulary = 300\n", Path("/")).cases[0].run(1e-3, 0).key not in KEYS


def test_the_example_of_the_documentation_can_be_read() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text()
    made = parse(page.split("```toml\n")[1].split("```")[0], Path("/"))
    assert {case.group for case in made.cases} == {"small qk_norm=false", "small qk_norm=true"}


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one.toml").write_text(SMALL + 'text = ["../books", "/else"]\n' + SETTINGS)
    assert read_experiment(tmp_path / "folder" / "one.toml").text == (str(tmp_path / "books"), "/else")


def test_names_of_compared_arms_stand_for_the_same_values_of_axes() -> None:
    axes = "[axes]\nstart = [-8.0, -2.0]\n"
    made = experiment('recipes = ["mhc", "mhc-sinkhorn"]\nlrs = [1e-3]\nseeds = [0]\ncompared_with = ["mhc"]\n' + axes)
    found = [made.reference(case, "mhc") for case in made.cases]
    assert [case and case.label for case in found] == [None, None, "mhc start=-8", "mhc start=-2"]


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.toml")), ids=lambda path: path.stem)
def test_the_repository_s_own_experiments_can_be_read(path: Path) -> None:
    made = read_experiment(path)
    assert made.count() > 0
    assert len(made.seeds) >= 3
    assert len({run.name for case in made.cases for lr in case.lrs for run in [case.run(lr, 0)]}) > 1
    assert all(made.reference(case, made.compared_with[0]) for case in made.cases if case.arm != made.compared_with[0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("recipes = [", "not valid TOML"),
        (SMALL + "epochs = 3\n", "epochs: unknown; accepted: title, about, text, recipes"),
        (SMALL.replace("[0, 1, 2]", "3"), "seeds: got 3; accepted: a list"),
        (SMALL.replace("[0, 1, 2]", "[]"), r"seeds: got \[\]; accepted: a list of one or more values"),
        (SMALL.replace("[0, 1, 2]", "[0, true]"), "seeds: got True; accepted: an integer"),
        (SMALL.replace("[0, 1, 2]", f"[{2**70}]"), "--seed is 11"),
        (SMALL.replace("[0, 1, 2]", "[0, 0]"), "seeds: got 0 twice; accepted: each value once"),
        (SMALL.replace("lrs = [1e-3, 2e-3]\n", ""), "lrs: got None; accepted: a list of one or more values"),
        (SMALL.replace("1e-3", "'fast'"), "lrs: got 'fast'; accepted: a number"),
        (SMALL.replace("1e-3", "-1"), r"residual: --lr is -1.0; accepted: a number from 0"),
        (SMALL.replace('"mhc"', '"mch"'), "recipes: recipe is 'mch'; accepted: residual, hc"),
        ("lrs = [1e-3]\nseeds = [0]\n", r"recipes: none; accepted: one or more recipes, or tables \[arms.NAME\]"),
        (SMALL + "tuning_seeds = 4\n", "tuning_seeds: got 4; accepted: 1 to 3"),
        (SMALL + "tuning_seeds = true\n", "tuning_seeds: got True; accepted: an integer"),
        (SMALL + 'compared_with = ["hc"]\n', "compared_with: got 'hc'; accepted: residual, mhc"),
        (SMALL + "[arms.a]\nwidth = 3\n", "arms.a: got 'width'; accepted: streams, manifold"),
        (SMALL + "[arms.a]\nlr = 3\n", "arms.a: got 'lr'; accepted: streams, manifold"),
        (SMALL + "[arms.a]\nstreams = 3\n", "arms.a: recipe is 'a'; accepted: residual, hc"),
        (SMALL + "[arms.mhc]\nstreams = 3\n", "arms.mhc: is also among the recipes"),
        (SMALL + '[arms.a]\nrecipe = "ohc"\nstreams = 3\n', "a: recipe ohc: streams: got 3"),
        (SMALL + '[arms.a]\nrecipe = "ohc"\nstreams = "4"\n', "a: --streams is '4'"),
        (SMALL + '[arms.a]\nrecipe = "residual"\nsame_parameters_as = "b"\n', "same_parameters_as is 'b'; accepted"),
        (SMALL + '[arms.a]\nrecipe = "residual"\nsame_parameters_as = "a"\n', "accepted: an arm whose width is not"),
        (SMALL + "[sizes]\ns = 3\n", "sizes.s: got 3; accepted: a table"),
        (SMALL + "[sizes.s]\nseed = 3\n", "sizes.s: got 'seed'"),
        (SMALL + "[axes]\nlr = [1]\n", "axes: got 'lr'"),
        (SMALL + "[axes]\nstreams = 2\n", "axes.streams: got 2; accepted: a list of values, each once"),
        (SMALL + "[axes]\ndim = [16]\n", "settings: got dim, which is also an axis"),
    ],
)
def test_mistakes_are_named(source: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        experiment(source)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"none\.toml: no such file"):
        read_experiment(tmp_path / "none.toml")
    with pytest.raises(LabError, match="not a TOML file"):
        read_experiment(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(LabError, match="not a TOML file"):
        read_experiment(tmp_path / "bytes.toml")
