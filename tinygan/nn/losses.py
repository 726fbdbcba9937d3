"""The losses, as pure functions of logits.

D(x) below is the probability sigmoid(logit) that an image is real. Each loss is a mean over the batch, a tensor of one
number. `real` and `fake` are keyword-only: their order is confused too easily. An unknown name of a loss or form raises
TinyganError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygan.engine.tensor import Tensor, describe
from tinygan.errors import GraphError, TinyganError
from tinygan.kernels.arguments import copy_integers
from tinygan.ops import log, log_softmax, mean, negative, sigmoid
from tinygan.ops.fused import logistic_loss, logistic_losses

CLAMP_EPS = 1e-12  # -log(1e-12) = 27.6 is the largest value the clamped form can take
GENERATOR_LOSSES = ("nonsaturating", "saturating")
FORMS = ("logits", "clamped")


def discriminator_loss(*, real: Tensor, fake: Tensor, form: str = "logits") -> Tensor:
    """Compute -E log D(x) - E log(1 - D(G(z))), the standard loss of D (Goodfellow et al. 2014), a single number.

    real, fake: D's logits of real images and of G's, of any shape. form: "logits" is exact; "clamped" is
    log(sigmoid + 1e-12) as in frameworks of 2017, whose gradient becomes 0 once D is certain: the paper's "hard
    collapse". (log(1 - D) is taken as log sigmoid(-logit): 1 - sigmoid would already round to 0 in float32 beyond a
    logit of about 17.) Raises TinyganError for another form.
    """
    return _minus_log(real, 1.0, form) + _minus_log(fake, -1.0, form)


def joint_loss(logits: Tensor, reals: int, form: str = "logits") -> Tensor:
    """Compute discriminator_loss of the logits (N,) of one batch, the first `reals` of which are of real images.

    form and errors: as for `discriminator_loss`. In the form "logits" both halves are one operation.
    """
    if form == "logits":
        return logistic_losses(logits, first=reals)
    return discriminator_loss(real=logits[:reals], fake=logits[reals:], form=form)


def generator_loss(*, fake: Tensor, kind: str = "nonsaturating", form: str = "logits") -> Tensor:
    """Compute the generator's loss from D's logits of its images, a single number (Goodfellow et al. 2014).

    fake: logits of any shape. kind: "nonsaturating" is -E log D(G(z)) (used by Xiang & Li's code, our default: it has a
    gradient when D wins); "saturating" is E log(1 - D(G(z))), the form printed in the paper. form: as for
    `discriminator_loss`. Raises TinyganError for another kind or form.
    """
    if kind == "nonsaturating":
        return _minus_log(fake, 1.0, form)
    if kind == "saturating":
        return negative(_minus_log(fake, -1.0, form))
    raise TinyganError(f"unknown generator loss {kind!r}: use one of {', '.join(GENERATOR_LOSSES)}")


def _minus_log(logits: Tensor, sign: float, form: str) -> Tensor:
    """Compute the mean of -log sigmoid(sign * logits)."""
    if form == "logits":
        return logistic_loss(logits, sign)
    if form == "clamped":
        return negative(mean(log(sigmoid(logits if sign > 0 else negative(logits)) + CLAMP_EPS)))
    raise TinyganError(f"unknown loss form {form!r}: use one of {', '.join(FORMS)}")


def cross_entropy(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """Compute the mean of -log softmax(logits)[label] over the batch, a single number.

    logits: (N, classes). labels: (N,) integers in [0, classes).
    Raises GraphError for logits of another shape and for labels that are no class or not one per sample.
    """
    if logits.ndim != 2:
        raise GraphError(f"cross_entropy: logits must be (N, classes), not {describe(logits)}")
    labels = copy_integers(labels, "labels", *logits.shape)
    return negative(mean(log_softmax(logits)[np.arange(len(labels)), labels]))
