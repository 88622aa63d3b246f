"""One run of Stable-Baselines3 or sb3-contrib with the published settings of rl-baselines3-zoo, written as one JSON file.

    learn.py --algo=trpo --env=Hopper-v4 --seed=0 --out=docs/results/peers      one run
    learn.py --queue=runs.txt --out=docs/results/peers                          lines "algo env seed", one fresh process each

A run whose file exists is skipped. Needs an environment of its own: see README.md.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What the zoo's hyperparams/{trpo,ppo,a2c}.yml give, revision 22e3ff2. Anything not named is the library's default; n_envs is 1 and
# normalize is False unless named. A learning rate or clip range written lin_x falls linearly from x to 0. The default network is two
# tanh layers of 64.
RELU_256 = {"log_std_init": -2, "ortho_init": False, "activation_fn": "ReLU", "net_arch": {"pi": [256, 256], "vf": [256, 256]}}

TRPO_MUJOCO = {
    **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 2, "batch_size": 128, "n_steps": 1024, "gamma": 0.99, "gae_lambda": 0.95},
    **{"sub_sampling_factor": 1, "cg_max_steps": 25, "cg_damping": 0.1, "n_critic_updates": 20, "learning_rate": 1e-3},
}
TRPO: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        **{"n_timesteps": 100_000, "n_envs": 2, "n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "gamma": 0.99},
        **{"learning_rate": 1e-3, "n_critic_updates": 20},
    },
    "Acrobot-v1": {"n_timesteps": 100_000, "normalize": True, "n_envs": 2, "n_steps": 1024},
    "MountainCar-v0": {"n_timesteps": 100_000, "normalize": True, "n_envs": 2, "n_steps": 1024, "n_critic_updates": 20},
    "Pendulum-v1": {
        **{"n_timesteps": 100_000, "n_envs": 2, "n_steps": 1024, "gamma": 0.9, "n_critic_updates": 15},
        **{"use_sde": True, "sde_sample_freq": 4},
    },
    "MountainCarContinuous-v0": {"n_timesteps": 50_000, "normalize": True, "n_envs": 2, "use_sde": True, "sde_sample_freq": 4},
    "LunarLander-v3": {
        **{"n_timesteps": 200_000, "n_envs": 2, "n_steps": 512, "cg_damping": 0.01, "gae_lambda": 0.98, "gamma": 0.99},
        **{"learning_rate": 1e-3, "n_critic_updates": 15},
    },
    "HalfCheetah-v4": {**TRPO_MUJOCO, "target_kl": 0.04},
    "Hopper-v4": TRPO_MUJOCO,
    "Walker2d-v4": TRPO_MUJOCO,
    "Swimmer-v4": {**TRPO_MUJOCO, "gamma": 0.9999},
}

PPO: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        **{"n_timesteps": 100_000, "n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20},
        **{"ent_coef": 0.0, "learning_rate": "lin_0.001", "clip_range": "lin_0.2"},
    },
    "Acrobot-v1": {
        **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 16, "n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99},
        **{"n_epochs": 4, "ent_coef": 0.0},
    },
    "MountainCar-v0": {
        **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 16, "n_steps": 16, "gae_lambda": 0.98, "gamma": 0.99},
        **{"n_epochs": 4, "ent_coef": 0.0},
    },
    "Pendulum-v1": {
        **{"n_timesteps": 100_000, "n_envs": 4, "n_steps": 1024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "ent_coef": 0.0},
        **{"learning_rate": 1e-3, "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4},
    },
    "MountainCarContinuous-v0": {
        **{"n_timesteps": 20_000, "normalize": True, "n_envs": 1, "n_steps": 8, "batch_size": 256, "gamma": 0.9999, "gae_lambda": 0.9},
        **{"learning_rate": 7.77e-5, "ent_coef": 0.00429, "clip_range": 0.1, "n_epochs": 10, "max_grad_norm": 5, "vf_coef": 0.19},
        **{"use_sde": True, "policy_kwargs": {"log_std_init": -3.29, "ortho_init": False}},
    },
    "LunarLander-v3": {
        **{"n_timesteps": 1_000_000, "n_envs": 16, "n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999},
        **{"n_epochs": 4, "ent_coef": 0.01},
    },
    "HalfCheetah-v4": {
        **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 1, "batch_size": 64, "n_steps": 512, "gamma": 0.98, "gae_lambda": 0.92},
        **{"learning_rate": 2.0633e-5, "ent_coef": 0.000401762, "clip_range": 0.1, "n_epochs": 20, "max_grad_norm": 0.8},
        **{"vf_coef": 0.58096, "policy_kwargs": RELU_256},
    },
    "Hopper-v4": {
        **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 1, "batch_size": 32, "n_steps": 512, "gamma": 0.999, "gae_lambda": 0.99},
        **{"learning_rate": 9.80828e-5, "ent_coef": 0.00229519, "clip_range": 0.2, "n_epochs": 5, "max_grad_norm": 0.7},
        **{"vf_coef": 0.835671, "policy_kwargs": RELU_256},
    },
    "Walker2d-v4": {
        **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 1, "batch_size": 32, "n_steps": 512, "gamma": 0.99, "gae_lambda": 0.95},
        **{"learning_rate": 5.05041e-5, "ent_coef": 0.000585045, "clip_range": 0.1, "n_epochs": 20, "max_grad_norm": 1},
        **{"vf_coef": 0.871923},
    },
    "Swimmer-v4": {
        **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 4, "n_steps": 1024, "batch_size": 256, "gamma": 0.9999},
        **{"learning_rate": 6e-4, "gae_lambda": 0.98},
    },
}

A2C_MUJOCO: dict[str, Any] = {"n_timesteps": 1_000_000, "normalize": True}
A2C: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"n_timesteps": 500_000, "n_envs": 8, "ent_coef": 0.0},
    "Acrobot-v1": {"n_timesteps": 500_000, "normalize": True, "n_envs": 16, "ent_coef": 0.0},
    "MountainCar-v0": {"n_timesteps": 1_000_000, "normalize": True, "n_envs": 16, "ent_coef": 0.0},
    "Pendulum-v1": {
        **{"n_timesteps": 1_000_000, "normalize": True, "n_envs": 8, "n_steps": 8, "gae_lambda": 0.9, "gamma": 0.9, "vf_coef": 0.4},
        **{"ent_coef": 0.0, "max_grad_norm": 0.5, "use_rms_prop": True, "normalize_advantage": False, "learning_rate": "lin_7e-4"},
        **{"use_sde": True, "policy_kwargs": {"log_std_init": -2, "ortho_init": False}},
    },
    "MountainCarContinuous-v0": {
        **{"n_timesteps": 100_000, "normalize": True, "n_envs": 4, "n_steps": 100, "ent_coef": 0.0, "use_sde": True},
        **{"sde_sample_freq": 16, "policy_kwargs": {"log_std_init": 0.0, "ortho_init": False}},
    },
    "LunarLander-v3": {
        **{"n_timesteps": 200_000, "n_envs": 8, "gamma": 0.995, "n_steps": 5, "learning_rate": "lin_0.00083", "ent_coef": 1e-5},
    },
    "HalfCheetah-v4": A2C_MUJOCO,
    "Hopper-v4": A2C_MUJOCO,
    "Walker2d-v4": A2C_MUJOCO,
    "Swimmer-v4": {**A2C_MUJOCO, "gamma": 0.9999},
}

TABLE = {"trpo": TRPO, "ppo": PPO, "a2c": A2C}
LIBRARY = {"trpo": "sb3-contrib", "ppo": "stable-baselines3", "a2c": "stable-baselines3"}
PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "numpy")
NOT_THE_ALGORITHMS = ("n_timesteps", "n_envs", "normalize")
EVALUATION_EPISODES = 100
EVALUATION_ENVS = 10
CURVE_POINTS = 100
WINDOW = 100  # episodes in a point of the curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=sorted(TABLE))
    parser.add_argument("--env", choices=sorted(TRPO), metavar="ID")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the published budget, for trying")
    parser.add_argument("--out", type=Path, required=True, help="a directory")
    parser.add_argument("--queue", type=Path, help="a file of lines 'algo env seed'")
    args = parser.parse_args()
    if args.queue:
        lines = [line.split() for line in args.queue.read_text().splitlines() if line.strip()] if args.queue.is_file() else []
        if not lines or any(len(line) != 3 for line in lines):
            parser.error(f"--queue={args.queue} is not a file of lines 'algo env seed'")
        sys.exit(queue(lines, args.out) > 0)
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps={args.steps}: at least 1 is needed")
    if not (args.algo and args.env):
        parser.error("a run needs --algo and --env, or --queue")
    run(args.algo, args.env, args.seed, args.steps, args.out)


def queue(lines: list[list[str]], out: Path) -> int:
    """Runs each line in a fresh process, whatever became of the one before; returns how many failed."""
    failed = 0
    for algo, env, seed in lines:
        print(time.strftime("%H:%M:%S"), algo, env, seed, flush=True)
        command = [sys.executable, str(Path(__file__).resolve()), f"--algo={algo}", f"--env={env}", f"--seed={seed}", f"--out={out}"]
        failed += subprocess.run(command, check=False).returncode != 0
    print(time.strftime("%H:%M:%S"), f"the queue has ended, {failed} failed", flush=True)
    return failed


def run(algo: str, env: str, seed: int, steps: int | None, out: Path) -> None:
    """Learns, evaluates and writes {out}/{algo}-{env}-seed{seed}.json."""
    path = out / f"{algo}-{env}-seed{seed}.json"
    if path.exists():
        print(f"{path.name} exists: skipped", flush=True)
        return
    settings = copy.deepcopy(TABLE[algo][env])
    if steps is not None:
        settings["n_timesteps"] = steps
    start = time.perf_counter()
    model, curve = learn(algo, env, seed, settings)
    learned = time.perf_counter()
    returns = evaluate(model, env, seed)
    result = {
        "library": LIBRARY[algo],
        "version": version(LIBRARY[algo]),
        "algo": algo,
        "env": env,
        "seed": seed,
        "steps": settings["n_timesteps"],
        "steps_taken": model.num_timesteps,  # whole rollouts: somewhat more than the budget
        "settings": passed(settings),
        "curve": curve,
        "evaluation": summary(returns),
        "returns": [round(value, 2) for value in returns],
        "wall_seconds": round(learned - start, 1),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }
    write(path, result)
    print(f"{path.name}: {result['evaluation']}, {result['wall_seconds']:.0f} s", flush=True)


def learn(algo: str, env: str, seed: int, settings: dict[str, Any]) -> tuple[Any, list[list[float]]]:
    """Returns the trained model and its curve: [steps, mean return of the last 100 training episodes], rewards as the task gives them."""
    import sb3_contrib
    import stable_baselines3
    import torch
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    envs = make_envs(env, settings.get("n_envs", 1))
    if settings.get("normalize", False):
        envs = VecNormalize(envs, norm_obs=True, norm_reward=True, gamma=settings.get("gamma", 0.99))
    algorithm = {"trpo": sb3_contrib.TRPO, "ppo": stable_baselines3.PPO, "a2c": stable_baselines3.A2C}[algo]
    arguments = {key: decoded(key, value) for key, value in settings.items() if key not in NOT_THE_ALGORITHMS}
    model = algorithm("MlpPolicy", envs, seed=seed, device="cpu", stats_window_size=WINDOW, **arguments)
    curve: list[list[float]] = []
    model.learn(settings["n_timesteps"], callback=recorder(curve, settings["n_timesteps"]))
    return model, curve


def make_envs(env: str, count: int) -> Any:
    """In one process. Monitor stands inside every normaliser, so that it sees the task's own rewards."""
    import gymnasium
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    warnings.filterwarnings("ignore", message=".*is out of date.*", category=DeprecationWarning)
    return DummyVecEnv([lambda: Monitor(gymnasium.make(env))] * count)


def decoded(key: str, value: Any) -> Any:
    """The table's plain values as the libraries want them: schedules and activation functions."""
    import torch

    if isinstance(value, str) and value.startswith("lin_"):
        return linear(float(value.removeprefix("lin_")))
    if key == "policy_kwargs":  # a copy: A2C writes its optimizer into what it is given
        named = {"activation_fn": getattr(torch.nn, value["activation_fn"])} if "activation_fn" in value else {}
        return {**copy.deepcopy(value), **named}
    return value


def linear(first: float) -> Callable[[float], float]:
    """From `first` at the start to 0 at the end; the libraries pass what remains of the run, 1 to 0."""
    return lambda remaining: first * remaining


def recorder(curve: list[list[float]], steps: int) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    """A callback that adds a point to the curve each hundredth of the budget, once an episode has ended."""
    marks = [steps * (k + 1) // CURVE_POINTS for k in range(CURVE_POINTS)]

    def record(local: dict[str, Any], _: dict[str, Any]) -> bool:
        model = local["self"]
        if marks and model.num_timesteps >= marks[0]:
            while marks and model.num_timesteps >= marks[0]:
                marks.pop(0)
            if model.ep_info_buffer:
                mean = statistics.fmean(float(episode["r"]) for episode in model.ep_info_buffer)
                curve.append([model.num_timesteps, round(mean, 3)])
        return True

    return record


def evaluate(model: Any, env: str, seed: int) -> list[float]:
    """The returns of the greedy policy in 100 episodes: the normaliser is frozen, the rewards are the task's own."""
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    envs = make_envs(env, EVALUATION_ENVS)
    normaliser = model.get_vec_normalize_env()
    if normaliser is not None:
        envs = VecNormalize(envs, training=False, norm_obs=True, norm_reward=False, gamma=normaliser.gamma)
        envs.obs_rms = copy.deepcopy(normaliser.obs_rms)
    envs.seed(seed + 10_000)  # not the starts that it was trained on
    returns, _ = evaluate_policy(model, envs, EVALUATION_EPISODES, deterministic=True, return_episode_rewards=True)
    return [float(value) for value in returns]


def summary(returns: list[float]) -> dict[str, float]:
    return {
        "mean": round(statistics.fmean(returns), 3),
        "std_error": round(statistics.stdev(returns) / len(returns) ** 0.5, 3),
        "min": round(min(returns), 3),
        "max": round(max(returns), 3),
        "episodes": len(returns),
    }


def passed(settings: dict[str, Any]) -> dict[str, Any]:
    """The row of the table, with what this program adds to it."""
    added = {"policy": "MlpPolicy", "device": "cpu", "torch_threads": 1, "n_envs": settings.get("n_envs", 1)}
    gamma = settings.get("gamma", 0.99)
    normalize = {"obs": True, "reward": True, "gamma": gamma} if settings.get("normalize", False) else False
    return {**added, **settings, "normalize": normalize}


def write(path: Path, result: dict[str, Any]) -> None:
    """In one piece: a reader sees the whole file or none. Lists of numbers stay on a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in result.items()]
    beside.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    beside.replace(path)


if __name__ == "__main__":
    main()
