"""Solutions of lesson 04."""


def exercise_1(g, y, a):
    # The columns in reverse order: an array of ones does not change, a random one does.
    return g[:, ::-1]


def exercise_2(f, x, h=1e-4):
    # The slopes on the two sides differ by `bend`. For a smooth f that is about h times its second derivative, so a
    # quarter of the step leaves a quarter of it. At a kink it stays. What is tiny is rounding.
    def bend(step):
        return abs(f(x + step) - 2 * f(x) + f(x - step)) / step

    return bool(bend(h) > 1e-8 and bend(h / 4) > bend(h) / 2)
