"""The peer's side of a case of `make bench-peers`: Stable-Baselines3 or sb3-contrib learns, and one line of JSON says how fast.

speed.py --algo=trpo --env=CartPole-v1 --rollouts=20 --settings='{"n_steps": 256}' --envs=8 --threads=2
speed.py --until=475 ...      learns until an evaluation of 40 greedy episodes reaches it, saves the policy, and says after how many steps
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from typing import Any

from learn import make_envs


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("algo", "trpo"), ("env", "CartPole-v1"), ("settings", "{}")):
        parser.add_argument(f"--{name}", default=default)
    for name, default in (("rollouts", 20), ("envs", 8), ("threads", 2), ("seed", 0), ("normalize", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--until", type=float)
    a = parser.parse_args()
    print(json.dumps(solve(a) if a.until is not None else learn(a)))


def make(a: Any) -> Any:
    """The model on `envs` environments in one process, observations normalised if asked for."""
    import sb3_contrib
    import stable_baselines3
    import torch
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(a.threads)
    envs = make_envs(a.env, a.envs)
    if a.normalize:
        envs = VecNormalize(envs, norm_obs=True, norm_reward=True)
    algorithm = {"trpo": sb3_contrib.TRPO, "ppo": stable_baselines3.PPO, "a2c": stable_baselines3.A2C}[a.algo]
    return algorithm("MlpPolicy", envs, seed=a.seed, device="cpu", **json.loads(a.settings))


def learn(a: Any) -> dict[str, Any]:
    """Seconds of each rollout and its update after the first."""
    from stable_baselines3.common.callbacks import BaseCallback

    marks: list[float] = []
    returns: list[float] = []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            marks.append(time.perf_counter())
            if self.model.ep_info_buffer:
                returns.append(sum(e["r"] for e in self.model.ep_info_buffer) / len(self.model.ep_info_buffer))

        def _on_step(self) -> bool:
            return True

    model = make(a)
    steps = model.n_steps * a.envs
    model.learn((a.rollouts + 1) * steps, callback=Watch())
    marks.append(time.perf_counter())
    spent = [after - before for before, after in itertools.pairwise(marks)]
    parameters = sum(p.numel() for p in model.policy.parameters())
    return {"first": spent[0], "seconds": spent[1:], "steps": steps, "parameters": parameters, "returns": [float(r) for r in returns]}


def solve(a: Any) -> dict[str, Any]:
    """Learns until greedy episodes return enough, and saves the policy."""
    from stable_baselines3.common.evaluation import evaluate_policy

    model, judges, reached, steps = make(a), make_envs(a.env, 10), 0.0, 0
    while reached < a.until and steps < 400_000:
        model.learn(5 * model.n_steps * a.envs, reset_num_timesteps=False)
        steps = model.num_timesteps
        reached = float(evaluate_policy(model, judges, 40)[0])
    with tempfile.TemporaryDirectory() as directory:
        model.save(os.path.join(directory, "policy"))
    return {"steps": steps, "evaluation": reached}


if __name__ == "__main__":
    main()
