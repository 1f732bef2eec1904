"""sllm: train a Korean–English small language model from scratch.

The library knows text, tensors and files. It reads torchrun's variables and knows nothing of Slurm:
everything about clusters lives in the `jobs` package.
"""

__version__ = "0.1.0"
