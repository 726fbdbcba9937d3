"""tinygan: stochastic deconvolutional generators, from scratch on NumPy and CuPy arrays."""

__version__ = "0.1.0"
