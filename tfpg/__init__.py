"""tfpg: policy gradients in TensorFlow 2, each equation one function.

Import the module that has the equation: `from tfpg import returns, surrogates, gradients`. docs/architecture.md says where things live.
"""

__version__ = "0.1.0"
