"""The counter-based generator: published vectors, the distributions, and that its arithmetic is exactly rounded."""

import math
import zlib
from statistics import NormalDist

import numpy as np
import pytest

from tinygan.kernels import counter

N = 200_000
ALL_ONES = 0xFFFFFFFF
DRAWS = {
    "bits": counter.bits,
    "uniform": counter.uniform,
    "normal": counter.normal,
    "integers": lambda seed, stream, n: counter.integers(seed, stream, n, 10),
}


@pytest.fixture(params=DRAWS)
def draw(request):
    return DRAWS[request.param]


def of_words(monkeypatch, function, words):
    """What a function makes of these very words."""
    monkeypatch.setattr(counter, "bits", lambda seed, stream, n: np.asarray(words, np.uint32))
    return function(0, 0, len(words))


# Counter, key, answer: lines "philox4x32 10" of the file kat_vectors in the authors' library, Random123.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL_ONES,) * 4, (ALL_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("words, key, answer", KNOWN)
def test_philox_gives_the_published_vectors(words, key, answer):
    got = counter.philox(np.array([words], np.uint32).T, key)
    assert got.dtype == np.uint32 and got.shape == (4, 1)
    assert tuple(got[:, 0]) == answer


def test_philox_takes_its_columns_one_by_one():
    key = KNOWN[2][1]
    columns = np.array([words for words, _, _ in KNOWN], np.uint32).T
    apart = [counter.philox(columns[:, [j]], key) for j in range(3)]
    np.testing.assert_array_equal(counter.philox(columns, key), np.hstack(apart))


def test_a_word_is_named_by_seed_stream_and_index():
    seed, stream = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    got = counter.bits(seed, stream, 11)
    assert got.dtype == np.uint32
    for i, word in enumerate(got):
        block = np.array([[i // 4], [0], [0x76543210], [0xFEDCBA98]], np.uint32)
        assert word == counter.philox(block, (0x89ABCDEF, 0x01234567))[i % 4, 0]
    assert tuple(counter.bits(0, 0, 4)) == KNOWN[0][2]


def test_the_numbers_of_today_are_those_of_tomorrow():
    """Not from a publication: what this code gave at first. Another answer would change every seeded run."""
    assert counter.bits(1, 2, 6).tolist() == [0xE73404CF, 0x8CEDC5D3, 0x3F071736, 0x0A0AFDDD, 0xB7B4C173, 0xDB04B052]
    uniform = [0x3F673405, 0x3F0CEDC5, 0x3E7C1C5C, 0x3D20AFD0, 0x3F37B4C1, 0x3F5B04B1]
    assert counter.uniform(1, 2, 6).view(np.uint32).tolist() == uniform
    normal = [0xBE7B1EB6, 0xBFD1EB58, 0x3F2FBDD6, 0x3FE13D81, 0xBF47C2EB, 0xBEBDA5C0]
    assert counter.normal(1, 2, 6).view(np.uint32).tolist() == normal
    assert zlib.crc32(counter.normal(1, 2, 100_000).astype("<f4").tobytes()) == 0xBD3214CF
    assert counter.integers(1, 2, 6, 1000).tolist() == [903, 550, 246, 39, 717, 855]


def test_a_longer_draw_starts_with_the_shorter(draw):
    whole = draw(3, 4, 1025)
    for n in (0, 1, 2, 3, 4, 5, 1023, 1024):
        part = draw(3, 4, n)
        assert part.shape == (n,) and part.dtype == whole.dtype
        np.testing.assert_array_equal(part, whole[:n])


def test_types(draw):
    assert counter.uniform(0, 0, 1).dtype == counter.normal(0, 0, 1).dtype == np.float32
    assert counter.integers(0, 0, 1, 5).dtype == np.int32
    np.testing.assert_array_equal(draw(np.uint32(7), np.int64(8), np.int64(5)), draw(7, 8, 5))


def test_seeds_and_streams_are_unlike():
    """Neighbouring names and names that differ in one bit of 64: half the bits differ, no number is the other's."""
    base = counter.bits(5, 6, 2000)
    other = [counter.bits(5 ^ 1 << j, 6, 2000) for j in range(0, 64, 7)]
    other += [counter.bits(5, 6 ^ 1 << j, 2000) for j in range(0, 64, 7)]
    other += [counter.bits(6, 5, 2000), counter.bits(5, 7, 2000), np.roll(base, 1), np.roll(base, 4)]
    for words in other:
        share = np.unpackbits((words ^ base).view(np.uint8)).mean()
        assert abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(2000 * 32)


def test_numbers_are_uncorrelated():
    z = counter.normal(8, 0, N)
    others = [np.roll(z, lag) for lag in (1, 2, 3, 4, 5, 64, 100, 4096)]
    others += [counter.normal(9, 0, N), counter.normal(8, 1, N), counter.normal(8, 1 << 32, N)]
    for other in others:
        for power in (1, 2):
            assert abs(np.corrcoef(z**power, other**power)[0, 1]) < 4 / math.sqrt(N)


def test_every_bit_is_fair():
    words = counter.bits(10, 11, N)
    shares = (words[:, None] >> np.arange(32, dtype=np.uint32) & 1).mean(0)
    assert np.abs(shares - 0.5).max() < 4.5 * 0.5 / math.sqrt(N)


def test_uniform():
    u = counter.uniform(1, 0, N).astype(float)
    assert 0 < u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / N)
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / N)  # the variance of (u - 1/2)^2 is 1/180
    assert distance(u, lambda x: x) < 1.95 / math.sqrt(N)


def test_uniform_is_exact_and_never_0_or_1(monkeypatch):
    words = np.array([0, 511, 512, 1 << 31, ALL_ONES], np.uint32)
    u = of_words(monkeypatch, counter.uniform, words)
    assert u.tolist() == [((int(word) >> 9) + 0.5) / 2**23 for word in words]
    assert u[0] == 2.0**-24 and u[-1] == 1 - 2.0**-24


def test_normal():
    z = counter.normal(1, 0, N).astype(float)
    assert abs(z.mean()) < 4 / math.sqrt(N)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / N)
    assert abs((z**3).mean()) < 4 * math.sqrt(15 / N)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / N)
    for bound in (1, 2, 3, 4):
        wanted = 2 * NormalDist().cdf(-bound)
        assert abs((np.abs(z) > bound).mean() - wanted) < 4 * math.sqrt(wanted / N)
    assert distance(z, NormalDist().cdf) < 1.95 / math.sqrt(N)


def distance(values, cdf):
    """Kolmogorov and Smirnov's: 1.95 / sqrt(n) is passed by one true sample in a thousand."""
    rank = np.arange(len(values) + 1) / len(values)
    wanted = np.array([cdf(x) for x in np.sort(values)])
    return max(np.abs(wanted - rank[:-1]).max(), np.abs(wanted - rank[1:]).max())


def tail_words():
    """Words of positive numbers: the ends, the border of the two approximations, and a spread over all magnitudes."""
    rng = np.random.default_rng(0)
    border = int(0.075 * 2**32)
    spread = np.exp(rng.uniform(0, math.log(2**31), 20_000)).astype(np.int64)
    parts = [np.arange(1000), border + np.arange(-1000, 1000), 2**31 - 1 - np.arange(1000), spread - 1,
             rng.integers(0, 2**31, 20_000)]
    return np.unique(np.concatenate(parts)).astype(np.uint32)


def test_normal_is_the_inverse_distribution(monkeypatch):
    words = tail_words()
    z = of_words(monkeypatch, counter.normal, words)
    wanted = np.array([-NormalDist().inv_cdf((int(word) + 0.5) / 2**32) for word in words])
    assert np.abs(z / wanted - 1).max() < 5e-7
    assert 6.3 < z[0] < 6.4 and np.argmax(z) == 0 and z.min() > 0
    np.testing.assert_array_equal(of_words(monkeypatch, counter.normal, words | np.uint32(1 << 31)), -z)


def test_normal_is_exactly_rounded_float32(monkeypatch):
    """The same formula in float64, rounded to float32 after each operation: the same bits.

    For +, -, *, / and the root, 53 bits are enough that the double rounding is harmless (Figueroa, "When is double
    rounding innocuous?", 1995). So any machine that fuses, flushes or approximates would show here.
    """
    words = tail_words()
    z = of_words(monkeypatch, counter.normal, words)

    def rounded(x):
        return np.asarray(x, np.float64).astype(np.float32).astype(np.float64)

    def polynomial(x, coefficients):
        value = rounded(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            value = rounded(rounded(value * x) + rounded(coefficient))
        return value

    k = 2 * words.astype(np.float64) + 1
    q = rounded((2.0**32 - k) / 2**33)
    r = rounded(rounded(counter.CENTRE_SHIFT) - rounded(q * q))
    centre = rounded(rounded(q * polynomial(r, counter.CENTRE_TOP)) / polynomial(r, counter.CENTRE_BOTTOM))
    f, e = np.frexp(rounded(k))  # f in [1/2, 1)
    low = f < math.sqrt(0.5)
    f, e = np.where(low, 2 * f, f), np.where(low, e - 1, e)
    s = rounded(rounded(f - 1) / rounded(f + 1))
    log_f = rounded(s * polynomial(rounded(s * s), counter.ATANH))
    minus_log = rounded(rounded((33 - e) * rounded(counter.LOG_2)) - log_f)
    tail = q > rounded(counter.CENTRE)
    r = rounded(rounded(np.sqrt(np.where(tail, minus_log, 4))) - rounded(counter.TAIL_SHIFT))
    beyond = rounded(polynomial(r, counter.TAIL_TOP) / polynomial(r, counter.TAIL_BOTTOM))
    np.testing.assert_array_equal(z, np.where(tail, beyond, centre))


@pytest.mark.parametrize("high", [1, 2, 7, 10, 64, 1000])
def test_integers_are_even(high):
    """Chi-square: its mean is high - 1, its variance 2 (high - 1)."""
    drawn = counter.integers(12, high, N, high)
    assert drawn.min() >= 0 and drawn.max() < high
    count = np.bincount(drawn, minlength=high)
    chi_square = ((count - N / high) ** 2).sum() * high / N
    assert abs(chi_square - (high - 1)) <= 4 * math.sqrt(2 * (high - 1))


def test_integers_take_the_upper_half_of_the_product(monkeypatch):
    words = [0, 1, 1 << 31, ALL_ONES]
    for high in (1, 10, 2**31 - 1):
        wanted = [word * high >> 32 for word in words]
        assert of_words(monkeypatch, lambda *name, h=high: counter.integers(*name, h), words).tolist() == wanted


def test_bad_arguments(draw):
    for seed, stream, n in ((0, 0, -1), (-1, 0, 1), (2**64, 0, 1), (0, -1, 1), (0, 2**64, 1)):
        with pytest.raises(ValueError):
            draw(seed, stream, n)
    with pytest.raises(TypeError):
        draw(0.5, 0, 1)
    draw(2**64 - 1, 2**64 - 1, 1)


@pytest.mark.parametrize("high", [0, -1, 2**31, 2**32])
def test_bad_high(high):
    with pytest.raises(ValueError, match="from 1 to"):
        counter.integers(0, 0, 1, high)
