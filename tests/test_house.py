"""The house keeps its floors: a module imports from its own floor or below, and never in a circle."""

import ast
from pathlib import Path

import tfpg
from tfpg.algorithms import ALGORITHMS
from tfpg.config import ACTIVATIONS as CONFIG_ACTIVATIONS
from tfpg.config import ALGORITHMS as CONFIG_ALGORITHMS
from tfpg.nets import ACTIVATIONS

ROOT = Path(tfpg.__file__).parent
FLOORS = {
    0: ["types", "checks", "config", "errors"],
    1: [
        "trees",
        "masks",
        "processes",
        "bellman",
        "objectives",
        "estimators",
        "variance",
        "returns",
        "baselines",
        "psi",
        "surrogates",
        "critics",
        "importance",
        "off_policy",
        "distributions",
        "divergences",
        "linalg",
        "trust_region",
        "models",
        "neighbours",
        "exact",
        "tabular",
        "lqr",
    ],
    2: ["encoding", "nets", "policies", "values", "gradients", "optimizers", "schedules", "normalizers", "pathwise", "learning"],
    3: ["improve", "algorithms", "update"],
    4: [
        "envs",
        "envs.cartpole",
        "envs.pendulum",
        "envs.acrobot",
        "envs.mountain_car",
        "envs.lqr",
        "envs.tabular",
        "envs.masked_cartpole",
        "envs.gym",
        "envs.single",
        "envs.spaces",
        "envs.window",
        "conformance",
        "demonstrations",
        "rollout",
        "evaluate",
        "checkpoint",
        "export",
        "metrics",
        "report",
        "build",
        "train",
        "workdir",
        "files",
    ],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}


def module_name(path):
    relative = path.relative_to(ROOT).with_suffix("")
    return ".".join(part for part in relative.parts if part != "__init__")


def imports(path):
    """Names below tfpg that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "tfpg":
                yield from (alias.name for alias in node.names)
            elif (node.module or "").startswith("tfpg."):
                package = node.module.removeprefix("tfpg.")
                inner = [f"{package}.{alias.name}" for alias in node.names]
                yield from (name if name in FLOOR else package for name in inner)
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("tfpg.") for alias in node.names if alias.name.startswith("tfpg."))


MODULES = {module_name(path): path for path in ROOT.rglob("*.py") if module_name(path)}


def test_every_module_has_a_floor():
    assert set(MODULES) == set(FLOOR)


def test_no_module_imports_upward():
    edges = [(name, imported) for name, path in MODULES.items() for imported in imports(path)]
    assert len(edges) > 50
    upward = [edge for edge in edges if FLOOR[edge[1]] > FLOOR[edge[0]]]
    assert not upward


def test_no_circles():
    below = {name: set(imports(path)) for name, path in MODULES.items()}
    while below:
        free = [name for name, needs in below.items() if not needs & set(below)]
        assert free, f"a circle among {sorted(below)}"
        for name in free:
            del below[name]


def test_variables_live_on_floor_4_only():
    users = {name for name, path in MODULES.items() if "tf.Variable(" in path.read_text()}
    assert users
    assert {FLOOR[name] for name in users} == {4}


def test_the_names_that_flags_allow_are_the_table():
    assert tuple(ALGORITHMS) == CONFIG_ALGORITHMS
    assert tuple(ACTIVATIONS) == CONFIG_ACTIVATIONS


def test_neighbouring_rows_differ_in_one_word():
    neighbours = [("reinforce", "reinforce_togo"), ("npg_fixed", "npg"), ("npg", "trpo")]
    for a, b in neighbours:
        differences = [x != y for x, y in zip(ALGORITHMS[a], ALGORITHMS[b], strict=True)]
        assert sum(differences) == 1, (a, b)
