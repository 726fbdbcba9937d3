"""One table for every CUDA kernel: its arguments, and what reference.py or counter.py says must come out.

test_cuda_kernels.py runs each row on the processor, test_gpu.py on a GPU. Sizes are odd, so that nothing fits a block
by chance, and each row runs on grids smaller and larger than the work. Outputs start as NaN (integers as garbage): what
a kernel forgets to write, shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygan.data import to_canvas
from tinygan.kernels import counter, reference
from tinygan.kernels.geometry import interpolation_matrix
from tinygan.kernels.gpu.maps import band
from tinygan.kernels.gpu.warp import inverse, views_of_images
from tinygan.kernels.gpu.weights import BANK, ENTRY, tile

THREADS = 256  # the block that kernels which add up within a block are written for
F32 = np.float32


@dataclass
class Output:
    """An argument that the kernel writes: what must be in it afterwards. start: what is in it before (None: poison).

    exact: to the bit. Where a kernel adds numbers up, its order is not NumPy's.
    """

    wanted: np.ndarray
    start: np.ndarray | None = None
    exact: bool = False

    def fresh(self) -> np.ndarray:
        if self.start is not None:
            return self.start.copy()
        return np.frombuffer(b"\xff" * self.wanted.nbytes, self.wanted.dtype).reshape(self.wanted.shape).copy()


@dataclass
class Table:
    """An array of structs, some of whose fields are pointers: given as arrays and Outputs, resolved at the launch."""

    dtype: np.dtype
    lines: list[tuple]


@dataclass
class Case:
    """A launch of `kernel`. args in order: arrays, None, Outputs, Tables and numbers. grids: to be tried one by one."""

    kernel: str
    label: str
    args: list
    grids: list[tuple] = field(default_factory=lambda: [(1,), (3,), (40,)])
    block: int = THREADS

    def __str__(self) -> str:
        return f"{self.kernel}-{self.label}"

    def outputs(self) -> list[Output]:
        found = [a for a in self.args if isinstance(a, Output)]
        for table in (a for a in self.args if isinstance(a, Table)):
            found += [value for line in table.lines for value in line if isinstance(value, Output)]
        return list({id(o): o for o in found}.values())


def run(case: Case, launch: Callable, grid: tuple, put: Callable = lambda a: a, get: Callable = lambda a: a,
        address: Callable = lambda a: a.ctypes.data) -> list[tuple[Output, np.ndarray]]:
    """Launch the case by `launch(kernel, grid, block, args)`; (Output, what came out) for each output.

    put, get: to the device and back; address: of an array there.
    """
    placed: dict[int, Any] = {}

    def place(value: Any) -> Any:
        if id(value) not in placed:
            placed[id(value)] = put(value.fresh() if isinstance(value, Output) else value)
        return placed[id(value)]

    args = []
    for value in case.args:
        if isinstance(value, Table):
            lines = [tuple(address(place(v)) if isinstance(v, (np.ndarray, Output)) else 0 if v is None else v
                           for v in line) for line in value.lines]
            value = np.frombuffer(np.array(lines, value.dtype).tobytes(), np.uint8).copy()
            args.append(put(value))
        else:
            args.append(place(value) if isinstance(value, (np.ndarray, Output)) else value)
    launch(case.kernel, grid, (case.block,), args)
    return [(o, np.asarray(get(placed[id(o)]))) for o in case.outputs()]


def wrong(results: list[tuple[Output, np.ndarray]], tolerance: float = 5e-6) -> str:
    """What differs from what must come out, in a few words; empty if nothing does."""
    for i, (output, got) in enumerate(results):
        wanted = output.wanted
        if output.exact or wanted.dtype.kind in "iu":
            bad = ~((got == wanted) | ((got != got) & (wanted != wanted)))
        else:
            # Beside the number's own size, that of its neighbours: sums of numbers that cancel are as exact as those.
            finite = np.isfinite(wanted)
            scale = np.abs(wanted) + (np.abs(wanted[finite]).mean() if finite.any() else 0.0)
            with np.errstate(invalid="ignore"):
                bad = ~((np.abs(got - wanted) <= tolerance * scale) | ((got != got) & (wanted != wanted)))
        if bad.any():
            at = tuple(int(k[0]) for k in np.nonzero(bad))
            return f"output {i}: {int(bad.sum())} of {bad.size} wrong, first at {at}: {got[at]} for {wanted[at]}"
    return ""


# ---- the rows ----------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    """The whole table, the same at every call."""
    parts = (patches, single_channels, plans, routed, activations, banks, optimisers, losses, pools, resizes, views,
             canvases, counters)
    return [case for part in parts for case in part()]


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


GEOMETRIES = {  # kernel, stride, padding, big size
    "k4s2p1": ((4, 4), (2, 2), (1, 1), (8, 6)), "k4s2p1 odd": ((4, 4), (2, 2), (1, 1), (7, 9)),
    "k3s1p1": ((3, 3), (1, 1), (1, 1), (5, 4)), "k4s1p0": ((4, 4), (1, 1), (0, 0), (4, 4)),
    "k4s1p1": ((4, 4), (1, 1), (1, 1), (6, 5)), "k1s1p0": ((1, 1), (1, 1), (0, 0), (3, 2)),
    "k5x2s3x1p2x0": ((5, 2), (3, 1), (2, 0), (8, 5)), "k2s2p0": ((2, 2), (2, 2), (0, 0), (5, 4)),
    "k2s3p0": ((2, 2), (3, 3), (0, 0), (8, 7)), "k6s2p2": ((6, 6), (2, 2), (2, 2), (4, 8)),
}


def patches() -> Iterator[Case]:
    for label, (kernel, stride, padding, size) in GEOMETRIES.items():
        names = ["any"] + [n for n in ("k4s2p1", "k3s1p1") if label.startswith(n)]
        hw = [reference.small_size(size[d], kernel[d], stride[d], padding[d]) for d in (0, 1)]
        for batch, order, first, count in (("plain", None, 0, 3), ("sorted", [2, 0, 3, 1], 0, 4),
                                           ("some of the sorted", [2, 4, 3, 1, 0], 1, 3), ("later", None, 2, 2)):
            n = 3 if order is None and first == 0 else 4 if order is None else len(order)
            order = None if order is None else np.array(order, np.int32)
            big = _normal(1, 3, n, *size)
            columns = reference.im2col(big, order, first, count, kernel, stride, padding)
            numbers = (3, n, count, *size, *hw, *kernel, *stride, *padding)
            values = _normal(2, *columns.shape)
            back = np.frombuffer(b"\xff" * big.nbytes, F32).reshape(big.shape).copy()
            reference.col2im(values, order, first, count, back, hw, kernel, stride, padding)
            for name in names:
                yield Case(f"im2col_{name}", f"{label} {batch}",
                           [big, order, first, Output(columns, exact=True), *numbers])
                yield Case(f"col2im_{name}", f"{label} {batch}", [values, order, first, Output(back), *numbers])


def single_channels() -> Iterator[Case]:
    for label, (kernel, stride, padding, size) in GEOMETRIES.items():
        hw = [reference.small_size(size[d], kernel[d], stride[d], padding[d]) for d in (0, 1)]
        big, small, filters = _normal(180, 3, 1, *size), _normal(181, 3, 5, *hw), _normal(182, 1, 5, 1, *kernel)
        numbers = (5, 3, *size, *hw, *kernel, *stride, *padding)
        made = reference.conv(big, filters, stride, padding, None)
        yield Case("thin_conv", label, [big, filters, Output(_rows(made)), *numbers])
        made = reference.conv_transpose(small, filters, stride, padding, None, size)
        yield Case("thin_transpose", label, [_rows(small), filters, Output(_rows(made)), *numbers])
    for channels, samples, size in ((3, 5, (4, 4)), (70, 2, (3, 5)), (1, 1, (1, 1)), (300, 1, (1, 1))):
        big, small = _normal(183, samples, channels, *size), _normal(184, samples, 1, 1, 1)
        filters, geometry = _normal(185, 1, 1, channels, *size), ((1, 1), (0, 0), None)
        numbers, label = (channels, samples, size[0] * size[1]), f"{channels} channels of {samples}"
        made = reference.conv(big, filters, *geometry)
        yield Case("whole_conv", label, [_rows(big), filters, Output(_rows(made)), *numbers])
        made = reference.conv_transpose(small, filters, *geometry, size)
        yield Case("whole_transpose", label, [_rows(small), filters, Output(_rows(made)), *numbers])
        made = reference.conv_weight(big, small, size, *geometry, 1)
        yield Case("whole_weight", label, [_rows(big), _rows(small), Output(made), *numbers])


def _rows(x: np.ndarray) -> np.ndarray:
    """(N, C, ...) as the kernels store it, (C, N, ...)."""
    return np.ascontiguousarray(x.swapaxes(0, 1))


def plans() -> Iterator[Case]:
    for layers, n, bank in ((1, 1, 1), (3, 13, 4), (2, 300, 7), (1, 5, 300), (2, 0, 3)):
        routes = np.random.default_rng(140).integers(0, bank, (layers, n)).astype(np.int32)
        routes[:1, 1:] = bank - 1  # some sets, or all but one, are unused
        order, starts, used = map(Output, reference.plan_routes(routes, bank))
        yield Case("plan_routes", f"{layers}x{n} through {bank}", [routes, order, starts, used, layers, n, bank])


ROUTED = {  # samples of each set in turn, pixels, A, D, slots, the columns are a map, parts
    "odd": ((3, 0, 2, 4), 3, 5, 7, (0, 9), False, 1),
    "in fours": ((19, 0, 2), 4, 132, 20, (0, 21), False, 1),
    "lines in fours, samples not": ((3, 4, 1), 3, 8, 36, (0, 8), False, 1),
    "some of the slots": ((2, 3, 0, 4), 4, 4, 72, (1, 6), False, 1),
    "later slots": ((2, 3, 4), 2, 7, 5, (5, 9), False, 1),
    "a map": ((1, 3, 0), 1, 33, 140, (0, 4), True, 1),
    "some of a map": ((3, 0, 4), 4, 3, 8, (2, 5), True, 1),
    "in parts": ((1, 0, 15), 5, 40, 41, (0, 16), False, 2),
    "more parts than there is to add": ((2, 1), 4, 12, 70, (0, 3), False, 3),
    "one set": ((17,), 5, 3, 2, (0, 17), False, 1),
}
TF32_ROWS = ("odd", "in fours", "in parts")  # all but the arithmetic is shared with the others


def routed() -> Iterator[Case]:
    for label, (counts, pixels, a, d, (first, last), is_map, parts) in ROUTED.items():
        rng, n, sets = np.random.default_rng(150), sum(counts), len(counts)
        routes = rng.permutation(np.repeat(np.arange(sets), counts)).astype(np.int32)
        (order,), (starts,), _ = reference.plan_routes(routes[None], sets)
        plan, about = (order, starts), (order, starts, first, last, is_map)
        held = n if is_map else last - first
        filters, small, columns = _normal(151, sets, a, d), _normal(152, a, n, pixels), _normal(153, d, held, pixels)
        numbers = (sets, a, d, n, pixels, first, last, int(is_map))
        for kernel, rounded in (("", np.asarray), ("_tf32", reference.tf32))[:1 + (label in TF32_ROWS)]:
            f, s, c = (rounded(x).astype(float) for x in (filters, small, columns))
            for turned, from_, shape, depth in ((0, columns, small.shape, d), (1, small, columns.shape, a)):
                wanted = np.full((parts, *shape), np.nan)
                for part in range(parts):
                    some = f.copy()
                    _clear_but(part, parts, depth, some.swapaxes(0, 1 + (not turned)))
                    maps = (s, wanted[part]) if turned else (wanted[part], c)
                    reference.routed_product(some, *maps, *about, turned)
                yield Case(f"routed_product{kernel}", f"{label}{' turned' * turned}",
                           [filters, from_, Output(wanted.astype(F32)), *plan, *numbers, turned, parts])
            wanted = np.zeros((parts, sets, a, d))
            for part in range(parts):
                for k in range(sets):
                    slots = order[max(starts[k], first):min(starts[k + 1], last)]
                    some, of_set = np.zeros_like(s), s[:, slots].reshape(a, -1).copy()
                    _clear_but(part, parts, of_set.shape[1], of_set.T)
                    some[:, slots] = of_set.reshape(a, -1, pixels)
                    reference.routed_gradient(wanted[part], some, c, *about)
            yield Case(f"routed_gradient{kernel}", label,
                       [small, columns, Output(wanted.astype(F32)), *plan, *numbers, 0, parts])
            if kernel:
                continue
            before = _normal(154, *wanted.shape)
            added = Output((wanted + before).astype(F32), before)
            yield Case(f"routed_gradient{kernel}", f"{label}, added",
                       [small, columns, added, *plan, *numbers, 1, parts], [(3,)])
    for count, size in ((1, 1), (3, 700), (5, 33)):
        x = _normal(155, count, size)
        yield Case("add_parts", f"{count} of {size}", [x, Output(x.sum(axis=0, dtype=float).astype(F32)), count, size])


DEEP = 16  # a part of a sum is so many products, or a multiple


def _clear_but(part: int, parts: int, depth: int, x: np.ndarray) -> None:
    """Set x (depth, ...) to zero outside one of the parts that the kernels cut the depth into."""
    longest = -(-depth // parts)
    share = -(-longest // DEEP) * DEEP
    x[:part * share] = x[part * share + share:] = 0.0


def activations() -> Iterator[Case]:
    for rows, columns in ((5, 1000), (3, 1), (1, 257), (2, 256), (7, 31)):
        x = _normal(4, rows, columns)
        total = Output(x.sum(axis=1, dtype=float).astype(F32)[:, None])
        yield Case("row_sums", f"{rows}x{columns}", [x, total, rows, columns], [(1, 1), (1, rows), (1, rows + 2)])
        owner = np.arange(columns) // THREADS % 2
        parts = Output(np.stack([x[:, owner == i].sum(axis=1, dtype=float) for i in (0, 1)], axis=1).astype(F32))
        yield Case("row_sums", f"{rows}x{columns} in two parts", [x, parts, rows, columns], [(2, 1), (2, rows)])
    for channels, pixels in ((3, 700), (5, 33), (1, 1), (4, 256)):
        x, g = _normal(5, 1, channels, pixels), _normal(6, 1, channels, pixels)
        slope, shift = np.random.default_rng(8).random(channels).astype(F32), _normal(9, channels)
        x[..., ::5] = shift[:, None]  # some lie exactly at the kink
        for t in (None, shift):
            label = f"{channels}x{pixels}{' shift' * (t is not None)}"
            y, dx = reference.tprelu(x, slope, t), reference.tprelu_dx(g, x, slope, t)
            grids = [(1, 1), (2, channels), (1, channels + 2)]
            yield Case("tprelu", label, [x[0], slope, t, Output(y[0]), channels, pixels, 0], grids)
            given, dx = [g[0], x[0], slope, t], Output(dx[0])
            yield Case("tprelu_back", f"{label}, dx alone", [*given, dx, None, channels, pixels, 0], grids)
            total = Output(_partial_sums(g[0], x[0], slope, t, 1))
            yield Case("tprelu_back", label, [*given, dx, total, channels, pixels, 0], [(1, 1), (1, channels)])
            if pixels > THREADS:
                parts = Output(_partial_sums(g[0], x[0], slope, t, 2))
                yield Case("tprelu_back", f"{label}, two blocks", [*given, dx, parts, channels, pixels, 0],
                           [(2, channels), (2, 1)])
    slope, shift = np.array([0.2, 0.5, 0.9], F32), _normal(186, 3)
    x, g = _normal(187, 5, 3, 2, 7), _normal(188, 5, 3, 2, 7)
    y, dx, *sums = reference.tprelu(x, slope, shift), *reference.tprelu_back(g, x, slope, shift)
    stored, dx = (np.ascontiguousarray(a.transpose(2, 3, 1, 0)) for a in (x, dx))
    yield Case("tprelu", "of a fully-connected layer", [stored, slope, shift, Output(_rows(y)), 3, 70, 5],
               [(1, 1), (2, 3)])
    yield Case("tprelu_back", "of a fully-connected layer", [
        _rows(g), stored, slope, shift, Output(dx), Output(np.stack(sums)[..., None]), 3, 70, 5], [(1, 1), (1, 3)])


    for channels, first, second in ((3, 300, 401), (1, 5, 1), (2, 7, 0)):
        a, b = _normal(194, channels, first), _normal(195, channels, second)
        wanted = Output(np.concatenate([a, b], axis=1), exact=True)
        yield Case("join", f"{first} and {second} in {channels}", [a, b, wanted, channels, first, second],
                   [(1, 1), (2, channels)])
    for channels, pixels in ((3, 700), (5, 33), (1, 1), (4, 256)):
        x, g, gain, bias = (*_normal(192, 2, 1, channels, pixels), *_normal(193, 2, channels))
        label = f"{channels}x{pixels}"
        for step, (a, b) in enumerate(((gain[:1], bias[:1]), (gain, bias))):
            y = Output(reference.affine(x, *(np.broadcast_to(v, channels) for v in (a, b))))
            yield Case("affine", f"{label}, step {step}", [x, a, b, y, channels, pixels, step],
                       [(1, 1), (2, channels), (1, channels + 2)])
        for blocks in (1, 2) if pixels > THREADS else (1,):
            owner = np.arange(pixels) // THREADS % blocks
            sums = [reference.affine_back(*(a[..., owner == k].astype(float) for a in (g, x)), gain)[1:]
                    for k in range(blocks)]
            sums = np.stack([np.stack(s) for s in sums], axis=2).astype(F32)
            dx = reference.affine_back(g, x, gain)[0]
            yield Case("affine_back", f"{label}, {blocks} blocks", [
                g, x, gain, Output(dx), Output(sums), channels, pixels], [(blocks, 1), (blocks, channels)])


def _partial_sums(g: np.ndarray, x: np.ndarray, slope: np.ndarray, shift: np.ndarray | None, blocks: int) -> np.ndarray:
    """The sums of tprelu_back, (2, C, blocks), where every block takes each blocks-th run of THREADS pixels."""
    out = np.empty((2, len(x), blocks), F32)
    owner, shift = np.arange(x.shape[1]) // THREADS % blocks, np.zeros(len(x)) if shift is None else shift
    for block in range(blocks):
        part = [a[None, :, owner == block].astype(float) for a in (g, x)]
        out[:, :, block] = reference.tprelu_back(*part, slope, shift)[1:]
    return out


def banks() -> Iterator[Case]:
    shapes = {  # (sets, A, B, kh, kw), where the output channels are, mask of used sets
        "deconvolution": ((3, 5, 3, 4, 4), 2, [True, False, True]), "projection": ((2, 7, 70, 1, 1), 2, None),
        "convolution": ((1, 4, 6, 4, 4), 1, None), "k3 deconvolution": ((2, 9, 4, 3, 3), 2, [False, True]),
        "to one channel": ((2, 40, 1, 4, 4), 2, [True, True]), "one number": ((1, 1, 1, 1, 1), 1, None),
        "k2 deconvolution": ((1, 3, 11, 2, 2), 2, None), "wide taps": ((1, 3, 2, 17, 17), 2, None),
        "long convolution": ((2, 3, 20, 4, 4), 1, [True, False]),
    }
    for label, names in [(name, [name]) for name in shapes] + [("all in one launch", list(shapes))]:
        forward, backward, blocks, masks = [], [], 0, []
        for i, name in enumerate(names):
            shape, out_axis, used = shapes[name]
            sets, a, b, kh, kw = shape
            channels, outer, inner = (a, 1, b * kh * kw) if out_axis == 1 else (b, a, kh * kw)
            w, g = _normal(10 + i, *shape), _normal(40 + i, *shape)
            rows = None if used is None else np.array(used)
            scale, eps = 1 / 4 if out_axis == 2 else 1.0, 0.1  # a small eps would leave a single number no gradient
            v, n = reference.normalize(w.astype(float), out_axis, scale, eps, rows)
            dw = reference.normalize_dx(g.astype(float), w.astype(float), n, out_axis, scale, rows)
            at = -1 if used is None else sum(map(len, masks))
            numbers = (sets, channels, outer, inner, blocks, at, scale)
            n = n.astype(F32)
            forward.append((w, None, Output(v.astype(F32)), Output(n), *numbers, eps))
            backward.append((w, g, Output(dw.astype(F32)), n, *numbers, 0.0))
            masks += [used] if used is not None else []
            blocks += sets * -(-channels // tile(outer, inner))
        mask = np.array(sum(masks, []), np.uint8) if masks else None
        for kernel, lines in (("normalize", forward), ("normalize_back", backward)):
            yield Case(kernel, label, [Table(BANK, lines), mask, len(names), blocks], [(1,), (3,), (blocks,)])


def optimisers() -> Iterator[Case]:
    sizes = (700, 1, 33, 256)
    bounds = ((-np.inf, np.inf), (0.0, 1.0), (-0.5, 0.5), (-np.inf, np.inf))
    lines: dict[str, list[tuple]] = {"rmsprop": [], "adam": [], "lerp": []}
    rates: dict[str, list] = {"rmsprop": [], "adam": [], "lerp": [0.1]}
    for i, (size, (low, high)) in enumerate(zip(sizes, bounds, strict=True)):
        p, m, g = _normal(60 + i, size), _normal(70 + i, size), _normal(80 + i, size)
        if size > 33:
            g[7] = np.nan  # must show, also where p is kept within bounds
        v, step = np.random.default_rng(90 + i).random(size).astype(F32), 1 + 3 * i
        wide = [a.astype(float)[None] for a in (p, m, v, g)]
        p1, m1, v1, g1 = (a.copy() for a in wide)
        reference.rmsprop(p1, v1, g1, lr=0.05 + i, alpha=0.9, eps=1e-6)
        lines["rmsprop"].append((Output(p1[0].clip(low, high).astype(F32), p), None, Output(v1[0].astype(F32), v), g,
                                 size, low, high))
        rates["rmsprop"].append(0.05 + i)
        p1, m1, v1, g1 = (a.copy() for a in wide)
        reference.adam(p1, m1, v1, g1, lr=0.05, beta1=0.5, beta2=0.99, eps=1e-8, step=step)
        lines["adam"].append((Output(p1[0].clip(low, high).astype(F32), p), Output(m1[0].astype(F32), m),
                              Output(v1[0].astype(F32), v), g, size, low, high))
        rates["adam"].append((0.05 / (1 - 0.5**step), (1 - 0.99**step) ** -0.5))
        average = wide[0].copy()
        reference.lerp(average, wide[3], 0.9)
        lines["lerp"].append((Output(average[0].astype(F32), p), None, None, g, size, 0.0, 0.0))
    p, m, v, g = (_normal(95 + i, 40) for i in range(4))
    kept = [Output(a.copy(), a) for a in (p, m, v)]
    for name, rate in (("rmsprop", 0.0), ("adam", (0.0, 1.0))):  # a filter set that no sample used
        lines[name].append((kept[0], kept[1], kept[2], g, 40, -0.1, 0.1))
        rates[name].append(rate)
    numbers = {"rmsprop": (0.9, 1e-6), "adam": (0.5, 0.99, 1e-8), "lerp": ()}
    for kernel, table in lines.items():
        yield Case(kernel, f"{len(table)} entries", [Table(ENTRY, table), len(table), np.array(rates[kernel], F32),
                                                     *numbers[kernel]], [(1, 1), (2, 3), (3, 4)])


def losses() -> Iterator[Case]:
    for n in (1, 255, 300, 1000):
        x = 20 * _normal(100, n)
        yield Case("sigmoid", f"{n}", [x, Output(reference.sigmoid(x.astype(float)).astype(F32)), n])
        for sign in (1.0, -1.0):
            loss = reference.logistic_loss(x.astype(float), sign)
            yield Case("logistic_loss", f"{n} {sign:+.0f}", [x, Output(np.array(loss, F32)), n, sign], [(1,)])
            dx = reference.logistic_back(0.7, x.astype(float), sign)
            yield Case("logistic_back", f"{n} {sign:+.0f}", [np.array(0.7, F32), x, Output(dx.astype(F32)), n, sign])
        g = _normal(101, n)
        back = reference.sigmoid_back(g.astype(float), x.astype(float))
        yield Case("sigmoid_back", f"{n}", [g, x, Output(back.astype(F32)), n])
        for first in {max(1, n // 3), n - n // 2} - {n}:
            loss = np.array(reference.logistic_losses(x.astype(float), first), F32)
            yield Case("logistic_losses", f"{first} of {n}", [x, Output(loss), n, first], [(1,)])
            dx = reference.logistic_losses_back(0.7, x.astype(float), first)
            yield Case("logistic_losses_back", f"{first} of {n}", [
                np.array(0.7, F32), x, Output(dx.astype(F32)), n, first])


def pools() -> Iterator[Case]:
    for size, stride, (h, w) in ((2, 2, (4, 6)), (3, 1, (5, 4)), (2, 3, (6, 5)), (3, 2, (7, 8)), (1, 1, (1, 1))):
        x = np.random.default_rng(110).integers(0, 4, (1, 3, h, w)).astype(F32)  # many ties
        label = f"{size} every {stride}"
        if h > 4:
            x[0, 1, 2, 1] = x[0, 2, 2, 1] = x[0, 2, 3, 1] = np.nan  # the last two share a window
        best, which = reference.max_pool(x, size, stride)
        numbers = (3, h, w, *best.shape[2:], size, stride)
        yield Case("max_pool", label, [x, Output(best, exact=True), Output(which), *numbers])
        x, g = _normal(111, 1, 3, h, w), _normal(112, *best.shape)
        yield Case("pool_take", label,
                   [x, which, Output(reference.pool_take(x, which, size, stride), exact=True), *numbers])
        put = reference.pool_put(g.astype(float), which, size, stride, x.shape).astype(F32)
        yield Case("pool_put", label, [g, which, Output(put), *numbers])
    for size, (h, w) in ((2, (3, 4)), (3, (2, 1)), (1, (2, 3))):
        x, g = _normal(113, 1, 3, h * size, w * size), _normal(114, 1, 3, h, w)
        yield Case("mean_pool", f"{size}",
                   [x, Output(reference.mean_pool(x.astype(float), size).astype(F32)), 3, h, w, size])
        yield Case("mean_unpool", f"{size}", [g, Output(reference.mean_unpool(g, size)), 3, h, w, size])


def resizes() -> Iterator[Case]:
    for (h, w), size, antialias in (((5, 4), (9, 7), False), ((9, 8), (4, 3), True), ((9, 8), (4, 3), False),
                                    ((1, 3), (2, 1), True)):
        for transposed in (False, True):
            matrices = [interpolation_matrix(a, b, antialias) for a, b in zip((h, w), size, strict=True)]
            rows, columns = (m.T if transposed else m for m in matrices)
            x = _normal(120, 1, 2, rows.shape[1], columns.shape[1])
            y = reference.resize(x.astype(float), rows, columns).astype(F32)
            (row_start, row_weights), (col_start, col_weights) = band(rows), band(columns)
            yield Case("resize", f"{h}x{w} to {size}{' antialiased' * antialias}{' transposed' * transposed}",
                       [x, Output(y), row_start, row_weights, col_start, col_weights, 2, *x.shape[2:], *y.shape[2:],
                        row_weights.shape[1], col_weights.shape[1]])


AFFINE = {  # (matrices, sources), (images, channels), image size, view size
    "turned": (([[0.8, -0.5, 1.0], [0.5, 0.8, -0.7]], [[-0.6, 0.9, 3.1], [0.9, 0.6, -2.0]]), (0, 1), (2, 3), (7, 6),
               (5, 8)),
    "nearer": (([[0.21, 0.03, 1.2], [-0.02, -0.19, 3.9]],), (0,), (1, 3), (5, 6), (13, 12)),
    "farther": (([[2.7, 0.4, -3.0], [0.3, -3.1, 9.0]],), (0,), (1, 2), (9, 11), (6, 5)),
    "several views, one image unseen": (([[1.0, 0.0, 0.5], [0.0, 1.0, -0.25]], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
                                         [[0.5, 0.0, 0.25], [0.0, -0.5, 3.0]]), (2, 0, 2), (3, 1), (6, 5), (4, 7)),
    "more channels than are summed at once": (([[0.5, 0.1, 0.0], [-0.1, 0.6, 1.0]],), (0,), (1, 7), (6, 4), (5, 9)),
    "the same place": (([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],), (0,), (1, 2), (5, 4), (5, 4)),
    "outside": (([[1.0, 0.1, 1e6], [0.2, 1.0, -1e6]],), (0,), (1, 2), (5, 4), (3, 4)),
    "one point": (([[0.0, 0.0, 1.3], [0.0, 0.0, 2.6]],), (0,), (1, 2), (5, 4), (3, 4)),
    "one line": (([[0.5, 0.25, 0.3], [1.0, 0.5, 0.1]],), (0,), (1, 2), (5, 4), (3, 4)),
    "nearly one line": (([[0.5, 0.25, 0.3], [1.0, 0.5000001, 0.1]],), (0,), (1, 1), (5, 4), (6, 4)),
    "nearly one point": (([[1e-12, 0.0, 1.3], [0.0, -1e-12, 2.6]],), (0,), (1, 1), (5, 4), (3, 4)),
    "one pixel": (([[0.3, 0.2, 0.25], [0.1, 0.4, -0.5]],), (0,), (1, 1), (1, 1), (1, 1)),
}


def views() -> Iterator[Case]:
    for label, (matrices, sources, maps, limits, size) in AFFINE.items():
        matrices, sources = np.array(matrices, F32), np.array(sources, np.int32)
        x, g = _normal(130, *maps, *limits), _normal(131, len(matrices), maps[1], *size)
        y = reference.warp(x, matrices, sources, size).swapaxes(0, 1).copy()
        back = reference.warp_back(g, matrices, sources, x.shape).swapaxes(0, 1).copy()
        x, g = (a.swapaxes(0, 1).copy() for a in (x, g))
        numbers = (*x.shape[:2], len(matrices), *limits, *size)
        yield Case("warp", label, [x, Output(y), matrices, sources, *numbers])
        yield Case("warp_back", label, [g, Output(back), matrices, inverse(matrices, size, limits),
                                        *views_of_images(sources, maps[0]), *numbers])


def canvases() -> Iterator[Case]:
    images = np.random.default_rng(170).integers(0, 256, (3, 28, 28), np.uint8)
    for indices in ([2], [1, 1, 0, 2]):
        for edge, size in ((0, 28), (2, 32)):
            wanted = to_canvas(images[indices], size)
            yield Case("canvas", f"{len(indices)} of {size}", [images, np.array(indices, np.int32), Output(
                wanted, exact=True), len(indices), 28, edge])


def counters() -> Iterator[Case]:
    for n, seed, stream in ((1, 0, 0), (2, 1, 2), (3, 5, 2**40), (1023, 2**63 + 7, 3), (4 * THREADS + 5, 9, 2**64 - 1)):
        words = *counter.halves(seed), *counter.halves(stream)
        for name in ("bits", "uniform", "normal"):
            values = getattr(counter, name)(seed, stream, n)
            yield Case(f"counter_{name}", f"{n}", [Output(values, exact=True), n, *words])
        normal = counter.normal(seed, stream, n)
        for width in (w for w in (1, 3, 11) if n % w == 0):  # 1023 is 3 * 11 * 31
            two = np.stack([normal, counter.normal(seed, 4, n)]).reshape(2, -1, width).swapaxes(1, 2).copy()
            key = np.array([words, [*counter.halves(seed), *counter.halves(4)]], np.uint32)
            yield Case("normal_of_step", f"{n} by {width}", [Output(two, exact=True), n, width, key, 2])
        for high in (10, 2**31 - 1):
            values = counter.integers(seed, stream, n, high)
            yield Case("counter_integers", f"{n} below {high}", [Output(values, exact=True), n, high, *words])
