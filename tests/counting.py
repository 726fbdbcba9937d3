"""Kernels that note how much a convolution multiplies: what the benchmarks' counts from the shapes must agree with."""

from tinygan.kernels import for_array


def counting_kernels(seen: list[int]):
    """In for_array's place: the kernels of an array, which append to `seen` what each call multiplies and adds."""
    class Counting:
        """The kernels, noting 2 * (numbers of the small map) * (numbers of a filter that meets one of them)."""

        def __init__(self, array):
            self.kernels = for_array(array)

        def __getattr__(self, name):
            return getattr(self.kernels, name)

        def conv(self, big, weight, *rest):
            small = self.kernels.conv(big, weight, *rest)
            seen.append(2 * small.size * weight[0, 0].size)
            return small

        def conv_transpose(self, small, weight, *rest):
            seen.append(2 * small.size * weight[0, 0].size)
            return self.kernels.conv_transpose(small, weight, *rest)

        def conv_weight(self, big, small, kernel, *rest):
            seen.append(2 * small.size * big.shape[1] * kernel[0] * kernel[1])
            return self.kernels.conv_weight(big, small, kernel, *rest)

        def conv_relu(self, x, weight, *rest):
            y = self.kernels.conv_relu(x, weight, *rest)
            seen.append(2 * y.size * weight[0].size)
            return y

        def conv_relu_dx(self, g, y, weight, *rest):
            seen.append(2 * g.size * weight[0].size)
            return self.kernels.conv_relu_dx(g, y, weight, *rest)

    return Counting
