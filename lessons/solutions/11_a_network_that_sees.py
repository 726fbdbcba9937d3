"""Solutions of lesson 11."""


def exercise_1(kernel, side):
    # Give the unrolled axis its three axes back, put the channel before row and column, and unroll again.
    out = kernel.shape[1]
    return kernel.reshape(side, side, -1, out).transpose(3, 2, 0, 1).reshape(out, -1)


def exercise_2(widths, head, side):
    # A convolution has 3 * 3 weights for each pair of an input and an output, and a bias for each output. The head
    # begins with all numbers of pool5; in the published net fc6 alone has 103 of the 138 million.
    total, inputs = 0, 3
    for outputs in widths:
        total += 9 * inputs * outputs + outputs
        inputs = outputs
    inputs *= side * side
    for outputs in head:
        total += inputs * outputs + outputs
        inputs = outputs
    return total
