"""Reading collapse off a training log: rules on series, one value per logged step.

Three ways in which training fails are told apart: immediate (the generator never gets going), soft (each
snapshot shows few classes, and other ones every time) and hard (the discriminator wins outright and the
generator's gradient is gone). Beside them: how long the variety survives, and how much the loss jumps. Where
the definition leaves a threshold open, the default is ours and says so; report it with the result.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from tinygan.errors import TinyganError

CLAMPED_LOSS_MAX = -math.log(1e-12)  # 27.6: the largest loss that a sigmoid clamped at 1e-12 can show


def immediate_collapse(
    steps: ArrayLike,
    *,
    by: int = 500,
    entropy: ArrayLike | None = None,
    pixel_std: ArrayLike | None = None,
    data_pixel_std: float | None = None,
    d_loss: ArrayLike | None = None,
    g_loss: ArrayLike | None = None,
    logit_gap: ArrayLike | None = None,
) -> list[str]:
    """Why a run counts as collapsed at the last logged step not after `by`; an empty list when it does not.

    The last step alone is read, since every generator is collapsed at step 0. The rules: label entropy below
    0.5 nat; pixel_std below 10 % of the data's; a loss above 90 % of 27.6; real and fake logits more than 20
    apart. entropy and pixel_std may hold NaN where they were not measured: their last measured value counts.
    A NaN loss is a collapse. The rate of immediate collapse is the share of seeds (10 or more) with a
    non-empty list.
    """
    (steps,) = _series(steps)
    if not (steps <= by).any():
        raise TinyganError(f"the log has no step up to {by}; log more often or ask about a later step")
    if pixel_std is not None and data_pixel_std is None:
        raise TinyganError("pixel_std needs data_pixel_std, the same measure of real images, beside it")

    def last(series: ArrayLike | None, *, measured: bool = False) -> float | None:
        if series is None:
            return None
        values = _series(steps, series)[1][steps <= by]
        values = values[~np.isnan(values)] if measured else values
        return float(values[-1]) if len(values) else None

    reasons = []
    value = last(entropy, measured=True)
    if value is not None and value < 0.5:
        reasons.append(f"label entropy {value:.2f} nat is below 0.5")
    value = last(pixel_std, measured=True)
    if value is not None and value < 0.1 * data_pixel_std:
        reasons.append(f"pixel std {value:.3g} is below a tenth of the data's {data_pixel_std:.3g}")
    # "not (value <= limit)" and not "value > limit": NaN is a failure too
    for name, value in (("D", last(d_loss)), ("G", last(g_loss))):
        if value is not None and not value <= 0.9 * CLAMPED_LOSS_MAX:
            reasons.append(f"{name} loss {value:.1f} is saturated")
    value = last(logit_gap)
    if value is not None and not abs(value) <= 20:
        reasons.append(f"real and fake logits are {abs(value):.1f} apart")
    return reasons


def hard_collapse(
    steps: ArrayLike,
    d_loss: ArrayLike,
    g_grad_norm: ArrayLike,
    *,
    loss_below: float = 1e-3,
    grad_below: float = 1e-6,
    longer_than: int = 500,
) -> int | None:
    """The step at which the discriminator won for good, or None.

    From there to the end of the log, over more than `longer_than` steps, D's loss is under `loss_below` and
    the norm of G's gradient under `grad_below`. (1e-6 and 500 are our choice.)
    """
    steps, d_loss, g_grad_norm = _series(steps, d_loss, g_grad_norm)
    alive = np.flatnonzero(~((d_loss < loss_below) & (g_grad_norm < grad_below)))
    begin = alive[-1] + 1 if len(alive) else 0
    if begin == len(steps) or steps[-1] - steps[begin] <= longer_than:
        return None
    return int(steps[begin])


def survival(steps: ArrayLike, covered: ArrayLike, *, needed: int = 8) -> dict[str, int | None]:
    """How long `needed` classes lived: the steps `reached`, `lost_first`, `lost_for_good`; None if never.

    Losses count from the step at which the classes were first reached: no generator starts with them.
    """
    steps, covered = _series(steps, covered)
    enough = np.flatnonzero(covered >= needed)
    if not len(enough):
        return {"reached": None, "lost_first": None, "lost_for_good": None}
    lost = [int(step) for i, step in enumerate(steps) if i > enough[0] and covered[i] < needed]
    for_good = int(steps[enough[-1] + 1]) if enough[-1] + 1 < len(steps) else None
    return {
        "reached": int(steps[enough[0]]),
        "lost_first": lost[0] if lost else None,
        "lost_for_good": for_good,
    }


def loss_volatility(loss: ArrayLike, *, window: int = 100) -> float:
    """The standard deviation of the loss inside windows of `window` logged values, averaged over windows."""
    (loss,) = _series(loss)
    whole = len(loss) // window
    if window < 2 or not whole:
        raise TinyganError(
            f"{len(loss)} losses do not fill a window of {window}; take a shorter one, of 2 or more"
        )
    return float(loss[: whole * window].reshape(whole, window).std(axis=1).mean())


def _series(*columns) -> list[np.ndarray]:
    arrays = [np.asarray(column, np.float64) for column in columns]
    if any(array.shape != (len(arrays[0]),) or not array.size for array in arrays):
        raise TinyganError(
            f"series need one value per logged step, got shapes {[array.shape for array in arrays]}"
        )
    return arrays
