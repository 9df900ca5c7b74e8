"""Imports point one way: the picture in docs/architecture.md, and no circle among modules."""

import ast
import sys
from pathlib import Path

import streammix

PACKAGE = Path(streammix.__file__).parent
#: From the ground up; a module imports from its own floor and those below.
FLOORS = (
    ("_checks", "_precision", "_parameters"),
    ("ops",),
    ("functional",),
    ("manifolds",),
    ("recipes",),
    ("layers",),
    ("diagnostics", "distributed"),
    ("checkpoints", "compat", "hf"),
    ("lab",),
    ("bench",),
    ("cli",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def modules() -> dict[str, Path]:
    """streammix.a.b -> its file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: set[str], *, late: bool) -> set[str]:
    """The modules of the package that a module imports when it is loaded; with `late`, inside functions too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if late else tree.body
    base = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    targets = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                targets.add(inner if inner in known else origin)
    return {target for target in targets if target in known and target != name}


def test_every_import_points_down():
    known = modules()
    for name, path in known.items():
        own = name.split(".")[1:2]
        if not own:
            continue
        for target in imported(name, path, set(known), late=True):
            there = target.split(".")[1:2]
            if there:
                assert FLOOR[there[0]] <= FLOOR[own[0]], f"{name} imports {target}, which is above it"


def test_no_circle_of_imports():
    """Among modules as they are loaded; a package stands for what its __init__ imports."""
    known = modules()
    arrows = {name: imported(name, path, set(known), late=False) - {"streammix"} for name, path in known.items()}
    assert arrows["streammix.layers.stack"] >= {"streammix.layers.fused", "streammix.recipes"}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for target in sorted(arrows[name]):
                # A module of a package may import its siblings; the package's own __init__ is loaded before either.
                if not name.startswith(f"{target}."):
                    walk(target, (*above, name))
            done.add(name)

    for name in sorted(arrows):
        walk(name, ())


def test_the_core_imports_torch_alone():
    core = {
        "_checks",
        "_precision",
        "_parameters",
        "ops",
        "functional",
        "manifolds",
        "recipes",
        "layers",
        "diagnostics",
        "distributed",
        "checkpoints",
        "compat",
    }
    for name, path in modules().items():
        # Kernels, which are not imported before the first of them runs on a device.
        allowed = {"torch", "jaxtyping"} | ({"triton"} if ".ops.triton." in name else set())
        if name.split(".")[1:2] and name.split(".")[1] in core:
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                for one in names:
                    top = one.split(".")[0]
                    assert top in allowed or top in sys.stdlib_module_names, f"{name} imports {one}"
