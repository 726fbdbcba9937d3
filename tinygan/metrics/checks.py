"""Checks of the arrays that the measures take. Each raises TinyganError, one line, for an array of another kind."""

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError


def as_matrix(name: str, values: ArrayLike, *, at_least: int = 1) -> np.ndarray:
    """Return `values` as a finite (N, F) array: float32 and float64 stay as they are, all else becomes float32."""
    x = np.asarray(values)
    if x.ndim < 2 or x.dtype.kind not in "fiub" or 0 in x.shape[1:]:
        raise TinyganError(f"{name} must be numbers of shape (N, ...), got shape {x.shape} of {x.dtype}")
    if len(x) < at_least:
        raise TinyganError(f"{name} hold {len(x)} rows but at least {at_least} are needed; use more samples")
    x = x.reshape(len(x), -1)
    if x.dtype != np.float64:
        x = x.astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        raise TinyganError(f"{name} hold NaN or infinity; check the model they come from")
    return x


def as_labels(name: str, labels: ArrayLike, classes: int) -> np.ndarray:
    """Return `labels` as a (N,) integer array with every value in [0, classes)."""
    x = np.asarray(labels)
    if x.ndim != 1 or x.dtype.kind not in "iu" or not len(x):
        raise TinyganError(
            f"{name} must be integers of shape (N,) with N >= 1, got shape {x.shape} of {x.dtype}"
        )
    if x.min() < 0 or x.max() >= classes:
        raise TinyganError(f"{name} must lie in 0 to {classes - 1}, found {x.min()} to {x.max()}")
    return x


def as_shares(name: str, histogram: ArrayLike) -> np.ndarray:
    """Convert counts or shares (bins,) to float64 shares that sum to 1."""
    x = np.asarray(histogram, np.float64)
    if x.ndim != 1 or not np.isfinite(x).all() or (x < 0).any() or x.sum() <= 0:
        raise TinyganError(f"{name} must be counts or shares of shape (bins,), none negative, not all zero")
    return x / x.sum()


def as_probabilities(probabilities: ArrayLike) -> np.ndarray:
    """Return class probabilities (N, classes) as float64; rows must sum to 1 within 1e-3."""
    x = as_matrix("probabilities", probabilities).astype(np.float64, copy=False)
    if (x < 0).any() or np.abs(x.sum(axis=1) - 1).max() > 1e-3:
        raise TinyganError(
            "probabilities must be >= 0 and each row sum to 1; give the softmax, not the logits"
        )
    return x


def same_features(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike, *, at_least: int = 1
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Return both as matrices with equal F and one precision: float64 if either is."""
    a, b = as_matrix(name_a, a, at_least=at_least), as_matrix(name_b, b, at_least=at_least)
    if a.shape[1] != b.shape[1]:
        raise TinyganError(
            f"{name_a} have {a.shape[1]} values per row but {name_b} have {b.shape[1]}; they must agree"
        )
    dtype = np.result_type(a, b)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def check_least(name: str, value: int, smallest: int) -> int:
    """Return `value`; raises TinyganError if it is below `smallest`."""
    if value < smallest:
        raise TinyganError(f"{name} must be at least {smallest}, got {value}")
    return value
