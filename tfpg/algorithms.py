"""The table: every algorithm is one row, and neighbouring rows differ in one word.

psi        what multiplies the score of the action at t
surrogate  the per-step objective that is ascended
improve    how the parameters move
critic     whether V is learned
batch      'episodes': whole trajectories from their first step; 'steps': chunks of a stream of episodes
"""

from tfpg import psi, surrogates
from tfpg.improve import ascend, backtracking, fixed, kl_scaled, natural
from tfpg.types import Algorithm

ALGORITHMS = {
    "reinforce": Algorithm(psi.total_return, surrogates.score, ascend, critic=False, batch="episodes"),
    "reinforce_togo": Algorithm(psi.reward_to_go, surrogates.score, ascend, critic=False, batch="episodes"),
    "reinforce_baseline": Algorithm(psi.monte_carlo_advantage, surrogates.score, ascend, critic=True, batch="episodes"),
    "npg_fixed": Algorithm(psi.gae, surrogates.importance, natural(fixed), critic=True, batch="steps"),
    "npg": Algorithm(psi.gae, surrogates.importance, natural(kl_scaled), critic=True, batch="steps"),
    "trpo": Algorithm(psi.gae, surrogates.importance, natural(backtracking), critic=True, batch="steps"),
}
