"""What one training step must do at least, counted from the shapes: multiplications and bytes.

A step is one of the discriminator D (generator G forward, D forward on real and on fake images, D's gradients) and
one of the generator (G and D forward, the gradient back through D's maps, G's gradients). With a layer's

    forward map, gradient of its input, gradient of its weight

each being one matrix product of the same size, 2 * N * h * w * A * B * kh * kw floating-point operations (h x w is
the small map, A and B are the channels of both sides; taps that fall on padding are counted), a layer is passed

              forward    input gradient               weight gradient      (times N samples)
    G's       2          1 (its first layer: 0)       1
    D's       3          3 (its first layer: 1)       2

Winograd forms need fewer operations (2.25 times fewer for k4 s2), so a product may beat this count.

Bytes: every map reads each input once and writes its output once, float32. Counted are the products, the activations
and their gradients, weight normalisation and its gradient, and RMSprop, with filter sets that no sample uses left
out; not counted are copies, im2col, and arrays of one image (sigmoid, losses).
"""

from __future__ import annotations

from dataclasses import dataclass

from tinygan.models import GANConfig

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Layer:
    """A (transposed) convolution between a small map (small_channels, side, side) and a big one."""

    net: str
    small_channels: int
    big_channels: int
    kernel: int
    small_side: int
    big_side: int
    bank: int
    first: bool
    last: bool

    @property
    def flop(self) -> int:
        """Count the operations of one of its three maps, for one sample."""
        return 2 * self.small_side ** 2 * self.weights

    @property
    def weights(self) -> int:
        """Count the numbers in one filter set."""
        return self.small_channels * self.big_channels * self.kernel ** 2

    @property
    def small(self) -> int:
        """Count the numbers in one sample's small map."""
        return self.small_channels * self.small_side ** 2

    @property
    def big(self) -> int:
        return self.big_channels * self.big_side ** 2

    def passes(self) -> tuple[int, int, int]:
        """Count how often N samples go (forward, back to the input, back to the weight) in one training step."""
        if self.net == "G":
            return 2, 0 if self.first else 1, 1
        return 3, 1 if self.first else 3, 2

    def calls(self) -> tuple[int, int, int]:
        """Return the same in calls, each of which reads the weight once: D gets real and fake images in one."""
        if self.net == "G":
            return self.passes()
        return 2, 1 if self.first else 2, 1


def layers(config: GANConfig) -> list[Layer]:
    """List all layers of both nets, in the order of the data."""
    depth, start = config.depth, config.side // 2 ** config.depth
    widths = [config.channels] + [config.base_channels * 2 ** i for i in range(depth)]  # from the image inwards
    sides = [config.side // 2 ** i for i in range(depth + 1)]
    both = [Layer("G", config.noise_length, widths[-1] * start ** 2, 1, 1, 1, config.bank[0], True, False)]
    for i in reversed(range(depth)):
        both.append(Layer("G", widths[i + 1], widths[i], 4, sides[i + 1], sides[i], config.bank[depth - i], False,
                          i == 0))
    for i in range(depth):
        both.append(Layer("D", widths[i + 1], widths[i], 4, sides[i + 1], sides[i], 1, i == 0, False))
    both.append(Layer("D", 1, widths[-1], start, 1, start, 1, False, True))
    return both


def step_flop(config: GANConfig, batch: int) -> int:
    """Count the floating-point operations in the matrix products of one training step."""
    return sum(sum(layer.passes()) * layer.flop for layer in layers(config)) * batch


def step_bytes(config: GANConfig, batch: int) -> float:
    """Count the bytes that one training step reads and writes at least."""
    numbers = 0.0
    for layer in layers(config):
        forward, to_input, to_weight = layer.passes()
        weight = used_sets(layer.bank, batch) * layer.weights
        maps = (layer.small + layer.big) * batch
        calls = layer.calls()
        # Products: two arrays in, one out.
        numbers += (forward + to_input + to_weight) * maps + sum(calls) * weight
        # Weight normalisation: read w, write v, once per call forward; its gradient: read both, write one.
        numbers += calls[0] * 2 * weight + calls[2] * 3 * weight
        numbers += 5 * weight  # RMSprop: read the gradient; read and write the weight and the average of squares
        if not layer.last:  # TPReLU: read and write; its gradient: read two, write one
            out = layer.big if layer.net == "G" else layer.small
            backward = 1 if layer.net == "G" else 3
            numbers += (2 * forward + 3 * backward) * out * batch
    return numbers * FLOAT_BYTES


def used_sets(bank: int, batch: int) -> float:
    """Compute how many filter sets have one of `batch` samples or more, on average over routes drawn uniformly."""
    return bank * (1 - (1 - 1 / bank) ** batch)
