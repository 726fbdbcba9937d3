"""Random numbers without a state: Philox4x32-10, the same bits from NumPy and from our CUDA kernels.

The idea: an ordinary generator changes its state with each draw, so draw i waits for draw i - 1 and the state
has to be kept. A counter-based one *encrypts* the number of the draw: ten rounds of multiply and xor under a
key turn (counter, key) into four words that pass as random. Every draw is then a function of its name

    (seed, stream, index):   seed = the key, stream and index = the counter, 64 bits each,

so a thousand threads draw at once, none waits, and a run that stopped at step 500 goes on from the number 500. A
*stream* is one sequence of draws, such as "the noise of step 500". One seed for several purposes
needs a stream for each (say step * purposes + purpose): the same name means the same numbers.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. For simulation, not
for secrets.

All functions return the first n numbers of their sequence, so a longer draw starts with a shorter one. Number i
takes word i, which is word i % 4 of block i // 4. What follows the words is integer arithmetic and float32 +, -,
*, / and square root, each of which IEEE 754 defines to the last bit. So there is no log or cos of a library here:
no two libraries agree on their last bit.
"""

import operator

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # found by the authors' search for the best mixing
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # what the key grows by per round: golden ratio - 1 and sqrt(3) - 1, times 2^32
ROUNDS = 10  # the authors found seven to pass all tests; ten leave a margin

# Rational approximations of the inverse normal distribution, PPND7 of Wichura's algorithm AS 241 (Applied Statistics
# 37, 1988, 477-484), constant term first. His third pair is for p < exp(-25) = 1.4e-11; our p is never below 2^-33.
CENTRE = 0.425  # |p - 1/2| up to which the first pair serves
CENTRE_SHIFT, TAIL_SHIFT = 0.180625, 1.6  # 0.425^2; where the two arguments are taken from
CENTRE_TOP = (3.3871327179, 50.434271938, 159.29113202, 59.109374720)
CENTRE_BOTTOM = (1.0, 17.895169469, 78.757757664, 67.187563600)
TAIL_TOP = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103)
TAIL_BOTTOM = (1.0, 0.73700164250, 0.12021132975)

LOG_2 = 0.69314718056
SQRT_HALF_BITS = 0x3F3504F3  # the bits of float32 sqrt(1/2)
ATANH = (2.0, 0.66666666667, 0.4, 0.28571428571)  # 2 atanh(s) = s (2 + 2/3 s^2 + 2/5 s^4 + 2/7 s^6 + ...)


def bits(seed: int, stream: int, n: int) -> np.ndarray:
    """Draw n words of 32 random bits, uint32 (n,): word i is word i % 4 of block i // 4.

    ValueError, here and below, for n < 0 and for a seed or stream outside [0, 2^64).
    """
    key, (stream_low, stream_high) = halves(seed, "seed"), halves(stream, "stream")
    check(n)
    block = np.arange(-(-n // 4), dtype=np.uint64)
    counter = np.empty((4, len(block)), np.uint32)
    counter[0], counter[1] = block & 0xFFFFFFFF, block >> 32
    counter[2], counter[3] = stream_low, stream_high
    return philox(counter, key).T.ravel()[:n]


def uniform(seed: int, stream: int, n: int) -> np.ndarray:
    """Draw n numbers even on (0, 1), float32 (n,): centres (b + 1/2) / 2^23 of 2^23 equal cells; never 0, never 1.

    A float32 has 24 bits. One of them goes to the 1/2, so that every number is exact and 1 - u is as likely as u.
    """
    top = bits(seed, stream, n) >> 8 | 1  # 2 b + 1, b the upper 23 bits
    return top.astype(np.float32) * np.float32(2.0**-24)


def normal(seed: int, stream: int, n: int) -> np.ndarray:
    """Draw n standard normal numbers, float32 (n,), by inversion: z = Phi^-1(p), p in the middle of one of 2^32 cells.

    The upper bit of a word is the sign of z. The other 31, called m, give the probability p = (m + 1/2) / 2^32 of
    the tail beyond |z|, with full precision however small it is. So |z| reaches 6.33 (made from `uniform` it would
    end at 5.3), and -z is exactly as likely as z. Against Phi^-1 in float64: |error| < 5e-7 |z|.
    """
    word = bits(seed, stream, n)
    k = word << 1 | 1  # 2 m + 1, so p = k / 2^33: the shift drops the sign, and k is never 0
    q = (0 - k).astype(np.float32) * np.float32(2.0**-33)  # 1/2 - p: an exact difference, rounded once
    r = np.float32(CENTRE_SHIFT) - q * q
    z = q * _polynomial(r, CENTRE_TOP) / _polynomial(r, CENTRE_BOTTOM)
    tail = q > np.float32(CENTRE)
    r = np.sqrt(_minus_log(k[tail])) - np.float32(TAIL_SHIFT)
    z[tail] = _polynomial(r, TAIL_TOP) / _polynomial(r, TAIL_BOTTOM)
    return np.where(word >> 31 == 1, -z, z)


def integers(seed: int, stream: int, n: int, high: int) -> np.ndarray:
    """Draw n integers of [0, high), int32 (n,): the upper half of word * high.

    2^32 words do not fall evenly into `high` cells: some cells get one word more than others, so a probability is off
    by less than the share high / 2^32 of itself (1e-7 for 400 cells). ValueError unless 1 <= high <= 2^31 - 1.
    """
    check(n, high)
    return (bits(seed, stream, n).astype(np.uint64) * np.uint64(high) >> 32).astype(np.int32)


def check(n: int, high: int = 1) -> None:
    """Raise ValueError unless n >= 0 numbers below 1 <= high < 2^31 can be drawn."""
    if n < 0:
        raise ValueError(f"cannot draw {n} numbers: n must be 0 or more")
    if not 1 <= high <= 2**31 - 1:
        raise ValueError(f"cannot draw integers below {high}: high must be from 1 to 2^31 - 1")


def halves(value: int, name: str = "value") -> tuple[int, int]:
    """Split a 64-bit number into (lower, upper) 32 bits, as the CUDA kernels take seed and stream."""
    value = operator.index(value)  # a NumPy integer would overflow below; a float is a TypeError
    if not 0 <= value < 2**64:
        raise ValueError(f"{name} {value} is not a number of 64 bits: it must be from 0 to 2^64 - 1")
    return value & 0xFFFFFFFF, value >> 32


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Encrypt by Philox4x32-10: four words per column of counter, uint32 (4, blocks), under the two words of the key.

    A round multiplies words 0 and 2 to 64 bits each. The lower halves become the new words 1 and 3. The upper
    halves, where every bit of the factor has left its mark, hide the old words 1 and 3 together with the key. A
    round can be undone (the multipliers are odd), so under one key different counters never give the same block.
    """
    w0, w1, w2, w3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first = w0.astype(np.uint64) * np.uint64(MULTIPLIERS[0])
        second = w2.astype(np.uint64) * np.uint64(MULTIPLIERS[1])
        w0 = (second >> 32).astype(np.uint32) ^ w1 ^ np.uint32(k0)
        w2 = (first >> 32).astype(np.uint32) ^ w3 ^ np.uint32(k1)
        w1, w3 = second.astype(np.uint32), first.astype(np.uint32)  # the cast keeps the lower half
        k0, k1 = (k0 + KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([w0, w1, w2, w3])


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """Evaluate by Horner's rule in float32, constant term first; product and sum are rounded one after the other."""
    value = np.float32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value


def _minus_log(k: np.ndarray) -> np.ndarray:
    """Compute -log(k / 2^33) in float32 for k (uint32, not 0), by exactly rounded operations only.

    k = 2^e f with f in [sqrt(1/2), sqrt(2)), so -log(k / 2^33) = (33 - e) log 2 - log f. Both e and f are read off
    the bits of float32 k: subtracting the bits of sqrt(1/2) lets the exponent field step at sqrt(2) 2^e, not at 2^e.
    log f = 2 atanh(s), s = (f - 1) / (f + 1), and |s| < 0.172, so four terms of the series are enough.
    """
    pattern = k.astype(np.float32).view(np.uint32)
    e = (pattern - np.uint32(SQRT_HALF_BITS)) >> 23
    f = (pattern - (e << 23)).view(np.float32)
    s = (f - np.float32(1)) / (f + np.float32(1))
    log_f = s * _polynomial(s * s, ATANH)
    return (33 - e).astype(np.float32) * np.float32(LOG_2) - log_f
