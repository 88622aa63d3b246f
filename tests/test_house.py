"""The house keeps its floors: a module imports from its own floor or below, and never in a circle."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import tfpg
from tfpg import algorithms, assess, build, config, convert, improve, nets, problem, psi, schedules, train
from tfpg.algorithms import ALGORITHMS
from tfpg.envs import gym

ROOT = Path(tfpg.__file__).parent
FLOORS = {
    0: ["types", "checks", "config", "errors", "algorithms", "programs"],
    1: [
        "trees",
        "blocks",
        "masks",
        "minibatches",
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
    3: ["learner", "assess", "problem", "fit", "improve", "update"],
    4: [
        "envs",
        "envs.cartpole",
        "envs.pendulum",
        "envs.acrobot",
        "envs.mountain_car",
        "envs.lqr",
        "envs.tabular",
        "envs.masked_cartpole",
        "envs.deeprm",
        "envs.registered",
        "envs.gym",
        "envs.single",
        "envs.spaces",
        "envs.window",
        "schedulers",
        "conformance",
        "demonstrations",
        "rollout",
        "evaluate",
        "checkpoint",
        "export",
        "signatures",
        "verify",
        "convert",
        "serving",
        "serving.model",
        "serving.rest",
        "serving.rpc",
        "serving.server",
        "metrics",
        "report",
        "build",
        "engines",
        "acting",
        "bundles",
        "traces",
        "unroll",
        "train",
        "seeds",
        "statistics",
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


def makes_variables(source):
    names = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(isinstance(name, ast.Attribute) and name.attr == "Variable" for name in names)


def test_no_module_makes_variables():
    assert makes_variables("x = [tf.Variable(0.0)]")
    assert not [name for name, path in MODULES.items() if makes_variables(path.read_text())]


def test_the_names_that_flags_allow_are_those_that_exist():
    assert tuple(ALGORITHMS) == choices("algo")
    assert ("", *algorithms.PSI) == choices("psi")
    assert set(algorithms.PSI) < set(psi.FAMILY)
    assert ("", *algorithms.BASELINES) == choices("baseline")
    assert ("", *algorithms.CRITICS) == choices("critic")
    assert set(assess.TARGETS) == set(algorithms.CRITICS)
    assert ("", *algorithms.WEIGHTS) == choices("weights")
    assert set(algorithms.WEIGHTS) | {row.surrogate for row in ALGORITHMS.values()} | {"guided"} == set(problem.SURROGATES)
    assert {row.improve for row in ALGORITHMS.values()} == set(improve.IMPROVEMENTS)
    assert tuple(nets.ACTIVATIONS) == choices("activation")
    assert set(build.OPTIMIZERS) == set(choices("optimizer"))
    assert set(schedules.SCHEDULES) == set(choices("schedule"))
    assert {"auto", "graph", *gym.ENGINES} == set(choices("engine"))
    assert set(gym.AUTORESETS) == set(choices("autoreset"))
    assert {*train.MODES, *config.SHIPPING} == set(choices("mode"))
    assert {"savedmodel", *convert.FORMATS} == set(choices("format"))


def choices(name):
    return config.Config.__dataclass_fields__[name].metadata["choices"]


def test_what_rows_set_is_what_flags_take():
    for name, given in algorithms.DEFAULTS.items():
        config.check(config.configured(algo=name))
        for flag, value in given.items():
            assert getattr(config.configured(algo=name), flag) == value, (name, flag)
            assert getattr(config.configured(algo=name, **{flag: "given"}), flag) == "given"


def test_neighbouring_rows_differ_in_one_word():
    lines = ["reinforce reinforce_togo reinforce_baseline", "actor_critic a2c", "npg_fixed npg trpo", "ppo ppo_kl"]
    for a, b in [pair for line in lines for pair in itertools.pairwise(line.split())]:
        differences = [x != y for x, y in zip(ALGORITHMS[a], ALGORITHMS[b], strict=True)]
        assert sum(differences) == 1, (a, b)


def test_the_table_and_the_flags_need_no_tensorflow():
    code = "import sys, tfpg.algorithms, tfpg.config; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_nothing_unpickles_or_evaluates():
    """What a user loads is tensors, JSON, flags and protobufs; no module of the program can make code of data."""
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
    files = [*ROOT.rglob("*.py"), ROOT.parent / "run.py", *(ROOT.parent / "examples").rglob("*.py")]
    assert len(files) > 80
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not forbidden & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", "")
                assert called not in ("eval", "exec", "compile", "__import__"), (path, node.lineno)
                loads = getattr(node.func, "attr", "") == "load" and getattr(getattr(node.func, "value", None), "id", "") == "np"
                said = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
                assert not loads or said.get("allow_pickle") is False, (path, node.lineno)
