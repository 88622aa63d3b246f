"""The command line: every mistake is one sentence and exit code 2, and nothing is left behind."""

import dataclasses
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from program import call

import run
from tfpg import workdir
from tfpg.config import LONG, PLACES, Config, configured, flag_text, settled
from tfpg.errors import UsageError

ROOT = Path(run.__file__).parent

MISTAKES = {
    "--clip_range=0.1": ["--clip_range=0.1", "would not be read", "--algo=ppo"],
    "--algo=ppo --kl_radius=0.1": ["--kl_radius=0.1", "--algo=npg and trpo"],
    "--algo=ppo_kl --clip_range=0.1": ["--clip_range=0.1", "--algo=ppo"],
    "--self_normalise": ["--self_normalise=true", "--algo=off_policy"],
    "--algo=reinforce --gae_lambda=0.5": ["--gae_lambda=0.5", "--psi=gae"],
    "--algo=reinforce --discount_from=start": ["--discount_from=start", "--psi=return"],
    "--algo=reinforce_togo --critic_epochs=3": ["--critic_epochs=3", "critic"],
    "--algo=pathwise --whiten": ["--whiten=true", "psi"],
    "--algo=a2c --psi=gae --critic=lambda --n_steps=3": ["--n_steps=3", "--psi=n_step"],
    "--algo=off_policy --envs=1": ["--envs=1", "--envs=2"],
    "--algo=reinforce --whiten --envs=1": ["--whiten", "--envs=2"],
    "--log_std_floor=-3": ["--log_std_floor=-3", "CartPole-v1", "not real"],
    "--algo=trp": ["--algo=trp", "trpo", "Did you mean trpo?"],
    "--algoo=npg": ["--algoo", "Did you mean algo?"],
    "npg": ["'npg'", "--algo=npg"],
    "--env=CartPole-v9": ["--env=CartPole-v9", "v1"],
    "--env=CartPol-v1": ["--env=CartPol-v1", "CartPole"],
    "--env=": ["--env=", "CartPole-v1"],
    "--env=no_such_module:Thing-v0": ["--env=no_such_module:Thing-v0", "no_such_module"],
    "--env=Blackjack-v1 --algo=pathwise": ["--algo=pathwise", "--env=Blackjack-v1", "real"],
    "--env=FrozenLake-v1 --engine=graph": ["--engine=graph", "FrozenLake-v1", "--engine=auto"],
    "--env=tfpg/LQR-v0 --engine=async": ["tfpg/LQR-v0", "--engine=graph", "sync"],
    "--env_arguments=rate": ["--env_arguments=rate", "name=value"],
    "--env_arguments=rate=": ["--env_arguments=rate=", "name=value"],
    "--env_arguments=rate=0.5": ["--env_arguments=rate=0.5", "CartPole-v1", "no arguments"],
    "--engine=sync --env_arguments=rate=0.5": ["CartPole-v1", "'rate': 0.5"],
    "--env=tfpg/DeepRM-v0 --env_arguments=rates=0.5": ["rates=0.5", "tfpg/DeepRM-v0", "rate (float)", "steps (int)"],
    "--env=tfpg/DeepRM-v0 --env_arguments=rate=2": ["--env_arguments=rate=2", "from 0 to 1"],
    "--env=tfpg/DeepRM-v0 --env_arguments=steps=0.5": ["steps=0.5", "steps (int)"],
    "--env=tfpg/DeepRM-v0 --env_arguments=semantics=mine": ["semantics=mine", "corrected and reference"],
    "--group=3": ["--group=3", "--baseline=mean, leave_one_out and time_mean"],
    "--algo=reinforce --baseline=mean --group=2 --engine=sync": ["--group=2", "--engine=graph"],
    "--algo=reinforce --baseline=mean --group=3": ["--group=3", "--envs=32", "multiple"],
    "--network=deeprm --nonormalize_observations": ["--network=deeprm", "tfpg/DeepRM-v0", "view=code"],
    "--network=deeprm": ["--network=deeprm", "--normalize_observations=false"],
    "--env=tfpg/Nowhere-v0": ["tfpg/Nowhere-v0", "tfpg/LQR-v0"],
    "--env=MountainCar-v7 --engine=envpool": ["envpool"],
    "--autoreset=same_step": ["--autoreset=same_step", "--engine=sync or async"],
    "--autoreset=never --engine=sync": ["--autoreset=never", "next_step"],
    "--schedule=linaer": ["--schedule=linaer", "Did you mean linear?"],
    "--num_seeds=0": ["--num_seeds=0", "from 1"],
    "--num_seeds=2 --seed=2147483647": ["--num_seeds=2", "--seed=2147483647", "seeds up to 2147483647"],
    "--window=0": ["--window=0", "from 1"],
    "--psi=gea": ["--psi=gea", "Did you mean gae?"],
    "--psi=gae --baseline=mean": ["--baseline=mean", "--psi=gae", "has its baseline inside"],
    "--psi=q --baseline=value": ["--baseline=value", "--psi=advantage"],
    "--psi=td --baseline=none": ["--baseline=none", "V inside", "togo"],
    "--algo=reinforce --baseline=time_mean": ["--baseline=time_mean", "--psi=togo"],
    "--algo=reinforce --psi=q --critic=td": ["--critic=td", "Q(o, a)", "sarsa"],
    "--psi=advantage --critic=lambda": ["--critic=lambda", "Q(o, a)"],
    "--algo=ppo --psi=togo --baseline=optimal_per_parameter": ["--baseline=optimal_per_parameter", "--baseline=optimal"],
    "--algo=npg --psi=return --baseline=optimal_per_parameter": ["--baseline=optimal_per_parameter", "reinforce"],
    "--algo=reinforce --baseline=optimal_per_parameter --whiten": ["--whiten", "--baseline=optimal_per_parameter"],
    "--algo=reinforce --baseline=optimal_per_parameter --entropy_bonus=0.1": ["--entropy_bonus", "--baseline=optimal_per_parameter"],
    "--algo=off_policy --psi=return": ["--psi=return", "--weights=causal"],
    "--algo=off_policy --psi=gae --weights=trajectory": ["--psi=gae", "whole episodes"],
    "--algo=off_policy --whiten": ["--whiten", "--weights=causal"],
    "--algo=ppo --weights=causal": ["--weights=causal", "--algo=off_policy", "--algo=ppo"],
    "--algo=reinforce --critic=td": ["--critic=td", "would not be read", "--baseline=value"],
    "--algo=reinforce --baseline=leave_one_out --envs=1": ["--baseline=leave_one_out", "--envs=2"],
    "--algo=reinforce --baseline=optimal --envs=1": ["--baseline=optimal", "--envs=2"],
    "--algo=reinforce --baseline=mean --envs=1": ["--baseline=mean", "--envs=2"],
    "--algo=reinforce_togo --baseline=time_mean --envs=1": ["--baseline=time_mean", "--envs=2"],
    "--algo=pathwise --psi=gae": ["--psi=gae", "--algo=pathwise", "model"],
    "--algo=pathwise --baseline=value": ["--baseline=value", "--algo=pathwise"],
    "--algo=pathwise --env=CartPole-v1": ["--algo=pathwise", "--env=CartPole-v1", "real"],
    "--algo=pathwise --network=gru": ["--network=gru", "pathwise"],
    "--algo=npg --network=gru": ["--network=gru", "--algo=npg", "ppo"],
    "--algo=trpo --network=gru": ["--network=gru", "--algo=trpo"],
    "--algo=a2c --network=gru --psi=advantage": ["--network=gru", "critics of V"],
    "--algo=ppo --network=gru --hidden=": ["--hidden", "gru"],
    "--network=cnn": ["--network=cnn", "pixels", "CartPole-v1"],
    "--network=cnn --window=4": ["--window=4", "--network=cnn"],
    "--env=Pendulum-v1 --psi=advantage": ["--psi=advantage", "--env=Pendulum-v1", "--psi=q", "--critic=td"],
    "--env=Pendulum-v1 --psi=q --critic=q_learning": ["--critic=q_learning", "--env=Pendulum-v1"],
    "--initial_log_std=-3 --log_std_floor=-2 --env=Pendulum-v1": ["--initial_log_std=-3", "--log_std_floor=-2"],
    "--algo=ppo --minibatches=9000": ["--minibatches=9000", "8,000 samples"],
    "--algo=off_policy --minibatches=33": ["--minibatches=33", "32 environments"],
    "--algo=ppo --network=gru --minibatches=41": ["--minibatches=41", "40 environments"],
    "--guidance=1": ["--guidance=1", "--demonstrations"],
    "--algo=off_policy --clone_epochs=2": ["--clone_epochs=2", "--demonstrations"],
    "--demonstrations=x.npz": ["--demonstrations=x.npz", "--algo=off_policy"],
    "--algo=off_policy --demonstrations=no/such.npz": ["--demonstrations=no/such.npz"],
    "--output=x.npz": ["--output=x.npz", "--mode=collect"],
    "--policy=x": ["--policy=x", "--mode=verify and serve", "--mode=train"],
    "--mode=evaluate --workdir=x --trust": ["--trust=true", "--mode=serve", "--mode=evaluate"],
    "--format=onnx": ["--format=onnx", "--mode=export"],
    "--mode=export --workdir=x --format=tflite": ["--format=tflite", "savedmodel, litert, onnx"],
    "--mode=verify": ["--mode=verify", "--policy=DIR", "--workdir=DIR"],
    "--mode=serve --policy=x --workdir=y": ["--mode=serve", "--policy=DIR", "--workdir=DIR"],
    "--mode=serve --policy=x --algo=ppo": ["--algo=ppo", "--mode=serve", "would not be read"],
    "--mode=serve --policy=x --port=70000": ["--port=70000", "from 0 to 65535"],
    "--env_timeout=3": ["--env_timeout=3", "--engine=async", "--engine=auto"],
    "--env_timeout=3 --engine=sync": ["--env_timeout=3", "--engine=async", "--engine=sync"],
    "--max_env_restarts=-1": ["--max_env_restarts=-1", "from 0"],
    "--engine=gpu": ["--engine=gpu", "graph, sync, async, envpool"],
    "--seed=-1": ["--seed=-1", "from 0 to 2147483647"],
    "--seed=1.5": ["--seed=1.5", "a whole number"],
    "--total_steps=0": ["--total_steps=0", "from 1"],
    "--discount=nan": ["--discount=nan", "a finite number"],
    "--discount=1.01": ["--discount=1.01", "from 0 to 1"],
    "--kl_radius=-0.01": ["--kl_radius=-0.01", "out of range"],
    "--kl_radius=inf": ["--kl_radius=inf", "a finite number"],
    "--gae_lambda=x": ["--gae_lambda=x", "a number"],
    "--jit=perhaps": ["--jit=perhaps", "auto, true, false"],
    "--stop_at_return=inf": ["--stop_at_return=inf", "a finite number"],
    "--hidden=64,-1": ["--hidden=64,-1", "64,64"],
    "--hidden=64;64": ["--hidden=64;64", "64,64"],
    "--hidden=²": ["--hidden=²", "64,64"],
    "--nojit": ["--nojit", "Did you mean"],
    "--jit": ["--jit", "auto, true, false"],
    "--undefok --total_steps=0": ["--undefok"],
    "--device=tpu": ["--device=tpu", "cpu"],
    "--critic_minibatches=9000": ["--critic_minibatches=9000", "8,000"],
    "--envs=1000000 --horizon=1000000": ["--envs=1000000", "--horizon=1000000", "100,000,000"],
    "--flagfile=no/such.flags": ["--flagfile", "No such file", "no/such.flags"],
    "--mode=evaluate": ["--mode=evaluate", "--workdir"],
    "--resume": ["--resume", "--workdir"],
    "--mode=evaluate --resume --workdir=x": ["--resume", "--mode=train"],
    "--mode=export --workdir=nowhere": ["--workdir=nowhere", "run.flags"],
    "--workdir=/proc/nothing/here": ["--workdir=/proc/nothing/here", "cannot be written"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_it(line, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capfd, *line.split())
    assert code == 2
    assert out == ""
    assert err.startswith("run.py: ")
    assert err.count("\n") == 1
    for text in MISTAKES[line]:
        assert text in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named_with_its_cure(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("envpool", "mujoco"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = call(capfd, "--engine=envpool")
    assert (code, "pip install envpool" in err) == (2, True)
    code, _, err = call(capfd, "--env=Hopper-v5")
    assert (code, "pip install 'gymnasium[mujoco]'" in err) == (2, True)


def test_a_directory_in_use_is_left_alone(capfd, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    code, _, err = call(capfd, f"--workdir={tmp_path}")
    assert code == 2
    assert "is not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_named(capfd, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call(capfd, f"--workdir={tmp_path}/file/run")
    assert (code, "cannot be written" in err) == (2, True)


def test_help_is_short_grouped_and_complete(capfd):
    code, out, err = call(capfd, "--help")
    assert (code, err) == (0, "")
    for field in dataclasses.fields(Config):
        assert f"--{field.name}={flag_text(field.default)} " in out
    assert max(map(len, out.splitlines())) <= 120
    assert len(out.splitlines()) < 110


def test_help_and_mistyped_flags_do_not_wait_for_tensorflow():
    for arguments in (["--help"], ["--algo=nope"]):
        code = f"import sys; sys.argv = {['run.py', *arguments]}; import run\ntry: run.main()\nexcept SystemExit: pass\n"
        check = "assert 'tensorflow' not in sys.modules"
        subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True, cwd=ROOT)


def test_a_run_imports_what_it_uses(tmp_path):
    """Keras stays away while TensorFlow starts, and can be had afterwards."""
    flags = ["run.py", "--hidden=8", "--envs=4", "--horizon=16", "--total_steps=64", "--tensorboard=false", f"--workdir={tmp_path}/run"]
    code = f"import sys; sys.argv = {flags}; import run\ntry: run.main()\nexcept SystemExit as end: assert end.code == 0\n"
    unused = "{'keras', 'tf_keras', 'tensorflow_probability', 'matplotlib.pyplot', 'tensorboard', 'gymnasium'}"
    later = "import tensorflow as tf\nfrom tensorflow.keras import layers\nassert layers.Dense(2)(tf.ones([3, 1])).shape == [3, 2]\n"
    later += "assert tf.keras.layers.Dense is layers.Dense"
    check = f"assert not {unused} & set(sys.modules)\n{later}"
    subprocess.run([sys.executable, "-c", code + check], check=True, capture_output=True, cwd=ROOT)


def test_nobody_looks_for_garbage_in_tensorflow():
    """What it consists of is set aside once; what comes later is not, and is looked through."""
    code = """
import gc, run
with run.lean():
    assert not gc.isenabled()
    import tensorflow
aside = gc.get_freeze_count()
assert gc.isenabled() and aside > 100_000, aside
later = [[k] for k in range(1000)]
with run.lean():
    assert gc.isenabled()
assert gc.get_freeze_count() <= aside
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="another library allocates")
def test_large_arrays_have_pages_of_their_own():
    """After one of 30 MB was given back, glibc by itself would cut one of 20 MB from a heap."""
    code = """
import ctypes, sys, run
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc.mallinfo.restype = Info
if "spare" in sys.argv:
    run.spare()
libc.free(libc.malloc(30 << 20))
before = libc.mallinfo().hblks
libc.malloc(20 << 20)
print(libc.mallinfo().hblks - before)
"""
    apart = [
        subprocess.run([sys.executable, "-c", code, *given], check=True, capture_output=True, cwd=ROOT).stdout for given in ([], ["spare"])
    ]
    assert [int(each) for each in apart] == [0, 1]


@pytest.mark.parametrize(
    ("flags", "compiled"),
    [
        ([], "true"),
        ([f"--total_steps={LONG}"], "true"),
        ([f"--total_steps={LONG - 1}"], "false"),
        ([f"--total_steps={LONG - 1}", "--num_seeds=16"], "false"),
        ([f"--total_steps={LONG - 1}", "--jit=true"], "true"),
        (["--jit=false"], "false"),
        (["--stop_at_return=475"], "false"),
        (["--stop_at_return=475", f"--total_steps={4 * LONG}"], "true"),
    ],
)
def test_short_runs_are_not_compiled(flags, compiled, tmp_path):
    """And a run goes on as it began, however long it becomes."""
    config = run.configure([*flags, f"--workdir={tmp_path}/run"])
    assert (config.jit, config.compiled()) == (compiled, compiled == "true")
    if "--num_seeds=16" not in flags:
        workdir.create(config)
        assert run.configure(["--resume", f"--workdir={tmp_path}/run", f"--total_steps={9 * LONG}"]).jit == compiled


def test_a_flagfile_takes_comments_and_later_flags_override(tmp_path):
    (tmp_path / "my.flags").write_text("# an experiment\n--algo=trpo\n--seed=4\n\n--jit=false\n")
    config = run.configure([f"--flagfile={tmp_path}/my.flags", "--seed=5"])
    assert (config.algo, config.seed, config.jit, config.env) == ("trpo", 5, "false", "CartPole-v1")


def test_a_row_brings_its_own_numbers_and_flags_override_them(tmp_path):
    config = run.configure(["--algo=ppo"])
    assert (config.minibatches, config.gradient_clip, config.whiten) == (16, 0.5, True)
    config = run.configure(["--algo=ppo", "--minibatches=4", "--nowhiten"])
    assert (config.minibatches, config.gradient_clip, config.whiten) == (4, 0.5, False)
    assert workdir.flagfile(run.configure(["--algo=npg"])) == workdir.flagfile(settled(Config()))
    (tmp_path / "run.flags").write_text(workdir.flagfile(config))
    assert workdir.flagfile(run.configure([f"--flagfile={tmp_path}/run.flags"])) == workdir.flagfile(config)
    assert run.configure([f"--flagfile={tmp_path}/run.flags", "--algo=ppo_kl"]).minibatches == 4


def test_frozen_lake_is_an_environment_like_others(tmp_path, capfd):
    small = ["--hidden=8", "--envs=4", "--horizon=20", "--total_steps=160", "--eval_episodes=3", "--tensorboard=false"]
    code, out, err = call(capfd, "--env=FrozenLake-v1", *small, f"--workdir={tmp_path}/run")
    assert (code, err) == (0, "")
    assert "FrozenLake-v1" in out


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.flags")), ids=lambda path: path.stem)
def test_committed_flagfiles_are_valid_and_say_what_they_are(path):
    run.configure([f"--flagfile={path}"])
    assert path.read_text().startswith("# ")


def test_run_flags_hold_every_flag_and_give_the_same_configuration(tmp_path):
    config = Config(algo="trpo", seed=3, discount=0.7, stop_at_return=12.5, hidden="", tensorboard=False, jit="true")
    (tmp_path / "run.flags").write_text(workdir.flagfile(config))
    assert run.configure([f"--flagfile={tmp_path}/run.flags"]) == config
    names = {line.split("=")[0].removeprefix("--") for line in workdir.flagfile(config).splitlines() if line.startswith("--")}
    assert names == {field.name for field in dataclasses.fields(Config)} - set(PLACES)
    default = workdir.flagfile(settled(Config()))
    (tmp_path / "run.flags").write_text(default)
    assert workdir.flagfile(run.configure([f"--flagfile={tmp_path}/run.flags"])) == default


def test_a_resumed_run_keeps_what_it_learns_with(tmp_path):
    (tmp_path / "run.flags").write_text(workdir.flagfile(Config(kl_radius=0.02, total_steps=1000)))
    config = run.configure(["--resume", f"--workdir={tmp_path}", "--total_steps=2000", "--kl_radius=0.02"])
    assert (config.kl_radius, config.total_steps, config.resume) == (0.02, 2000, True)
    with pytest.raises(UsageError, match=r"--kl_radius=0.01 differs from this run's 0.02"):
        run.configure(["--resume", f"--workdir={tmp_path}", "--kl_radius=0.01"])


def test_new_runs_get_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (workdir.create(Config(env="ALE/Pong-v5")) for _ in range(2))
    assert first != second
    assert first.parent == second.parent == Path("runs")


def test_a_row_s_own_numbers_are_no_mistake_where_another_word_leaves_them_unread():
    assert run.configure(["--algo=a2c", "--psi=gae", "--critic=lambda"]).n_steps == 16
    assert run.configure(["--algo=pathwise"]).initial_log_std == -1


def test_whole_episodes_are_not_cut_to_a_row_s_chunks():
    assert run.configure(["--algo=actor_critic"]).horizon == 32
    assert run.configure(["--algo=actor_critic", "--psi=togo"]).horizon == 0
    assert run.configure(["--algo=actor_critic", "--psi=togo", "--horizon=50"]).horizon == 50


def test_a_run_s_own_words_may_be_said_again(tmp_path):
    """What is checked is the run with its words, not the words alone."""
    of_run = configured(algo="off_policy", weights="trajectory")
    (tmp_path / "run.flags").write_text(workdir.flagfile(of_run))
    assert run.configure(["--resume", f"--workdir={tmp_path}", "--weights=trajectory"]).algo == "off_policy"
    with pytest.raises(UsageError, match=r"--weights=causal differs from this run's trajectory"):
        run.configure(["--resume", f"--workdir={tmp_path}", "--weights=causal"])


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("--workdir=x\udcff", r"--workdir='x\udcff'"),
        ("--workdir=x\ny", r"--workdir='x\ny'"),
        ("--workdir=x\0y", r"--workdir='x\x00y'"),
        ("--workdir= x", "--workdir=' x'"),
        ("--demonstrations=x ", "--demonstrations='x '"),
        ("--env=Cart\u2028Pole", r"--env='Cart\u2028Pole'"),
        ("--algo=np\x0bg", r"--algo='np\x0bg'"),
        ("--output=x\ry", r"--output='x\ry'"),
    ],
)
def test_a_text_that_run_flags_cannot_hold_is_refused(argument, shown, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capfd, argument)
    assert (code, out) == (2, "")
    assert err == f"run.py: {shown} is not allowed: one line of text is, without blanks at its ends.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argument", ["a\nb", "--a\nb", "--seed=1\n2", "--nosuch\u2028x=3", "--flagfile=a\nb", "--flagfile=\udcff"])
def test_whatever_is_said_the_sentence_is_one_line(argument, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capfd, argument)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "words"),
    [("--algo", ["--algo needs a value", "npg", "trpo"]), ("--seed", ["--seed needs a value", "a whole number"]), ("--env", ["text"])],
)
def test_a_flag_without_a_value_says_what_is_allowed(argument, words, capfd):
    code, out, err = call(capfd, argument)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


def test_a_path_that_cannot_be_made_leaves_nothing_of_itself(capfd, tmp_path):
    code, _, err = call(capfd, f"--workdir={tmp_path}/a/b/{'x' * 300}")
    assert (code, "cannot be written" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []
