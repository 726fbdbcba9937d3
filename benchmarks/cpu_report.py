"""The tables of the CPU benchmark: what cpu.py measured, and beside it the operations and the floors."""

from __future__ import annotations

import argparse
import os
from typing import Any

import cpu_counts
import numpy as np
from cpu_nets import Net, Problem


def floors(net: Net, speed: dict[str, float]) -> tuple[float, float]:
    """Compute the milliseconds that (the matrix products, the moving of bytes) of one step take at least."""
    moved = cpu_counts.step_bytes(net.config, net.batch)
    return net.flop / speed["gflops"] / 1e6, moved / speed["gbytes"] / 1e6


def json_row(net: Net | Problem, speed: dict[str, float]) -> dict[str, Any]:
    """Return a row's numbers by name; no floor for what has none."""
    best = net.best_form
    ours, theirs = net.ms["tinygan"], net.ms[best]
    least = min(net.least[form] for form in net.torch_forms)
    row = {"name": net.name, "tinygan_ms": ours, "torch_ms": theirs, "ratio": ours / theirs, "torch_form": best,
           "tinygan_least_ms": net.least["tinygan"], "torch_least_ms": least,
           "least_ratio": net.least["tinygan"] / least,
           "tinygan_mb": net.mb["tinygan"], "torch_mb": net.mb[best], "tinygan_above_mb": net.above["tinygan"],
           "torch_above_mb": net.above[best], "tinygan_gflops": net.flop / net.least["tinygan"] / 1e6,
           "torch_gflops": net.flop / least / 1e6}
    return row | ({"floor_ms": max(floors(net, speed))} if isinstance(net, Net) else {})


def matrix_library() -> str:
    """Name the library behind NumPy's matrix product and the processor it was built for, which decide half of the time.

    OPENBLAS_CORETYPE in the environment overrides what OpenBLAS detects; a slower code there is easily forgotten.
    """
    try:
        import threadpoolctl
    except ImportError:
        return "matrix library unknown (threadpoolctl is not installed)"
    libraries = [f"{i['internal_api']} {i['version']} for {i.get('architecture', 'any processor')}"
                 for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]
    forced = os.environ.get("OPENBLAS_CORETYPE")
    return ", ".join(libraries) + (f", forced by OPENBLAS_CORETYPE={forced}" if forced else "")


def report(nets: list[Net | Problem], speed: dict[str, float], args: argparse.Namespace) -> str:
    """Print all tables."""
    gans = [net for net in nets if isinstance(net, Net)]
    names = max(len(net.name) for net in nets)
    lines = [f"One training step, {args.threads} thread{'s' * (args.threads > 1)}, median of {args.rounds} rounds; "
             "(least): the shortest step",
             f"NumPy {np.__version__}, {matrix_library()}",
             "MB: the most memory while stepping, (of that above the state at rest); GFLOP/s: by the shortest step", "",
             f"{'net':{names}} {'tinygan ms (least)':>18} {'torch ms (least)':>18} {'ratio':>5} {'(least)':>7} "
             f"{'tinygan MB':>13} {'torch MB':>13} {'GFLOP/s':>7} {'torch':>5}  best form of torch (all below)"]
    for net in nets:
        row = json_row(net, speed)
        ours, theirs = (f"{row[f'{side}_ms']:.1f} ({row[f'{side}_least_ms']:.1f})" for side in ("tinygan", "torch"))
        our_mb, their_mb = (f"{row[f'{side}_mb']:.0f} ({row[f'{side}_above_mb']:.0f})" for side in ("tinygan", "torch"))
        lines += [f"{net.name:{names}} {ours:>18} {theirs:>18} {row['ratio']:5.2f} {row['least_ratio']:7.2f} "
                  f"{our_mb:>13} {their_mb:>13} {row['tinygan_gflops']:7.0f} {row['torch_gflops']:5.0f}  "
                  f"{net.best_form}",
                  "    " + ", ".join(f"{form} {net.ms[form]:.1f} ({net.least[form]:.1f}) ms {net.mb[form]:.0f} MB"
                                     for form in net.torch_forms)]
    if cost := bank_cost(gans):
        lines += ["", *cost]
    if gans:
        lines += ["", *floor_table(gans, speed)]
    for net in nets:
        lines += ["", *profile_table(net)]
    return "\n".join(lines)


def bank_cost(nets: list[Net]) -> list[str]:
    """Compare the cost of a bank of K against a bank of one, at equal width."""
    lines = []
    for plain in (net for net in nets if net.bank == 1):
        for net in nets:
            if net.base == plain.base and net.bank > 1:
                theirs = net.ms[net.best_form] / plain.ms[plain.best_form]
                lines.append(f"K {net.bank} over K 1 at base {net.base}: tinygan "
                             f"{net.ms['tinygan'] / plain.ms['tinygan']:.2f}, torch {theirs:.2f}")
    return lines


def floor_table(nets: list[Net], speed: dict[str, float]) -> list[str]:
    """Format the table of what a step of the GANs takes at least."""
    lines = [f"Floors, from a product at {speed['gflops']:.0f} GFLOP/s and a copy at {speed['gbytes']:.1f} GB/s; "
             "arrays that stay in cache can be faster",
             f"{'net':28} {'GFLOP':>7} {'ms':>8} {'MB moved':>9} {'ms':>8} {'tinygan / larger floor':>23}"]
    for net in nets:
        compute, moving = floors(net, speed)
        lines.append(f"{net.name:28} {net.flop / 1e9:7.2f} {compute:8.1f} "
                     f"{cpu_counts.step_bytes(net.config, net.batch) / 1e6:9.1f} {moving:8.1f} "
                     f"{net.ms['tinygan'] / max(compute, moving):23.2f}")
    return lines


def profile_table(net: Net | Problem) -> list[str]:
    """Format the table of the ten costliest operations of tinygan, forward and backward together."""
    rows, total = net.profile["rows"], net.profile["total_ms"]
    lines = [f"{net.name}: tinygan's costliest operations ({total:.1f} ms per step while profiled)",
             f"  {'op':24} {'calls':>6} {'ms':>8} {'share':>6}"]
    lines += [f"  {name:24} {calls:6.0f} {ms:8.2f} {ms / total:6.1%}" for name, calls, ms in rows[:10]]
    others = sum(ms for _, _, ms in rows[10:])
    lines += [f"  {'all other ops':24} {'':6} {others:8.2f} {others / total:6.1%}",
              f"  {'Python between ops':24} {'':6} {net.profile['rest_ms']:8.2f} {net.profile['rest_ms'] / total:6.1%}"]
    return lines
