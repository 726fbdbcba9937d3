"""The study's figures, each from the results or the folders of jobs that are there; one without any is left out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinygan.app import checkpoint, pictures
from tinygan.app.curves import drawing
from tinygan.app.gan_game import DIGIT_STEPS, PHOTO_STEPS
from tinygan.metrics.statistics import kaplan_meier
from tinygan.study.games import GRID_SAMPLES, MixtureGame
from tinygan.study.jobs import build, is_done
from tinygan.study.mixtures import COLOURS, SAMPLES, Mixture, mixture_scores
from tinygan.study.plan import ARMS, FIRST_SEED, MAIN, PARTS, Job, kind_of
from tinygan.study.results import Results
from tinygan.study.summary import restored
from tinygan.study.tables import arm_words, survival

COLOUR = {"gan": "#444444", "sgan4": "#0072b2", "tied4": "#009e73", "wide": "#e69f00", "pac2": "#cc79a7",
          "sgan16": "#56b4e9", "slow": "#d55e00"}
PRACTICAL_MAXIMUM = 27.6  # -log(1e-12), the largest loss of the clamped form
SEEDS_SHOWN = 3  # of a picture of points


def draw_all(results: Results, jobs: Path, folder: Path) -> list[str]:
    """Draw every figure of which something is there into `folder`; returns their names."""
    made = []
    for name, draw in _figures(results, jobs):
        data = draw()
        if data is not None:
            folder.mkdir(parents=True, exist_ok=True)
            pictures.write(folder / name, data)
            made.append(name)
    return made


def _figures(results: Results, jobs: Path) -> list[tuple[str, Callable[[], io.BytesIO | None]]]:
    figures: list[tuple[str, Callable[[], io.BytesIO | None]]] = []
    for part in ("A", "A-ring", "A-quick", "B", "B-half", "B-quarter"):
        figures += [(f"modes-{part}.png", lambda part=part: modes_against_steps(results, part)),
                    (f"points-{part}.png", lambda part=part: points(jobs, part))]
    figures += [(f"kl-against-k-{part}.png", lambda part=part: kl_against_k(results, part)) for part in ("A", "B")]
    figures += [(f"survival-{part}.png", lambda part=part: survival_curves(results, part))
                for part in ("C-momentum", "C", "D")]
    figures += [(f"samples-{part}.jpg", lambda part=part: paper_table(results, jobs, part)) for part in ("C", "D", "E")]
    for part in ("C", "E"):
        figures += [(f"losses-{part}.png", lambda part=part: loss_curves(results, part)),
                    (f"nearest-{part}.jpg", lambda part=part: nearest_photos(jobs, part))]
    return figures


_figure = partial(drawing, dpi=100)


def _seeds_and_median(axis: Any, curves: Sequence[tuple[Sequence[float], Sequence[float]]], colour: str,
                      words: str = "") -> None:
    """Draw the curve (steps, values) of every seed thin, and bold the median of those that a NaN did not end early."""
    for steps, values in curves:
        axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.7)
    longest = max((steps for steps, _ in curves), key=len)
    whole = [values for steps, values in curves if len(steps) == len(longest)]
    axis.plot(longest, np.median(whole, axis=0), color=colour, linewidth=2.2, label=words)


def modes_against_steps(results: Results, part: str) -> io.BytesIO | None:
    """Draw the modes covered at each scoring: a panel for each main arm, every seed thin and the median bold."""
    found = [(arm, [r["series"] for r in results.of(part, arm) if "modes" in r["series"]]) for arm in MAIN]
    arms = [(arm, series) for arm, series in found if series]
    if not arms:
        return None
    with _figure(2.6 * len(arms), 2.8) as (figure, png):
        axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axis, (arm, seeds) in zip(axes, arms, strict=True):
            _seeds_and_median(axis, [(series["step"], series["modes"]) for series in seeds], COLOUR[arm])
            axis.set_title(f"{ARMS[arm].words}\nseeds: {len(seeds)}", fontsize=8)
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=7)
            axis.set_xlabel("step", fontsize=8)
        axes[0].set_ylabel("modes covered", fontsize=8)
        axes[0].set_ylim(bottom=0)
    return png


def points(jobs: Path, part: str) -> io.BytesIO | None:
    """Draw the points of a mixture's generators, a row for each of three seeds, in the colour of the first layer's set.

    From the checkpoints of jobs that are done.
    """
    if kind_of(part) != "points":
        return None
    found = {(arm, number): folder for number in range(SEEDS_SHOWN) for arm in MAIN if arm in PARTS[part].arms
             if is_done(folder := jobs / Job(part, arm, number).name) and (folder / checkpoint.FILE_NAME).exists()}
    arms = [arm for arm in MAIN if any((arm, number) in found for number in range(SEEDS_SHOWN))]
    rows = sorted({number for _, number in found})
    if not found:
        return None
    with _figure(2.0 * len(arms), 2.0 * len(rows) + 0.3) as (figure, png):
        axes = figure.subplots(len(rows), len(arms), squeeze=False)
        for row, number in enumerate(rows):
            for column, arm in enumerate(arms):
                axis = axes[row][column]
                if (arm, number) in found:
                    _scatter(axis, restored(found[arm, number], build))
                axis.set_xticks([])
                axis.set_yticks([])
                if row == 0:
                    axis.set_title(ARMS[arm].words, fontsize=7)
            axes[row][0].set_ylabel(f"seed {FIRST_SEED + number}", fontsize=7)
    return png


def _scatter(axis: Any, game: MixtureGame) -> None:
    """Draw the points of a game on an axis, above the means of its mixture."""
    mixture: Mixture = game.mixture
    drawn, routes = game.generate(game.G, SAMPLES, GRID_SAMPLES)
    reach = 1.3 * np.abs(mixture.means).max()
    axis.scatter(*mixture.means.T, s=55, color="#d7d7d7", linewidths=0)
    axis.scatter(*drawn.T, s=0.6, color=COLOURS[routes[:, 0] % len(COLOURS)] / 255, linewidths=0)
    axis.set_xlabel(f"{mixture_scores(drawn, mixture)['modes']} of {len(mixture.means)} modes", fontsize=6)
    axis.set_xlim(-reach, reach)
    axis.set_ylim(-reach, reach)
    axis.set_aspect("equal")


def kl_against_k(results: Results, part: str) -> io.BytesIO | None:
    """Draw the KL of the modes' shares against the sets of a layer, with the controls beside: all seeds and means."""
    sizes = [("gan", 1), ("sgan2", 2), ("sgan4", 4), ("sgan8", 8), ("sgan16", 16)]
    controls = [arm for arm in PARTS[part].arms if arm not in dict(sizes)]
    places = [(arm, i, f"{k}") for i, (arm, k) in enumerate(sizes)]
    places += [(arm, len(sizes) + 0.5 + i, arm) for i, arm in enumerate(controls)]
    values = {arm: results.numbers(part, arm, "modes_kl") for arm, _, _ in places}
    if not values["gan"] or len([arm for arm, _ in sizes if values[arm]]) < 3:
        return None
    with _figure(8, 3.2) as (figure, png):
        axis = figure.subplots()
        for arm, at, _ in places:
            axis.plot([at] * len(values[arm]), values[arm], "o", color=COLOUR.get(arm, "#888888"), alpha=0.35,
                      markersize=3)
            if values[arm]:
                axis.plot([at - 0.3, at + 0.3], [np.mean(values[arm])] * 2, color=COLOUR.get(arm, "#888888"),
                          linewidth=2.5)
        axis.set_xticks([at for _, at, _ in places], [words for _, _, words in places], fontsize=7, rotation=35)
        axis.set_xlabel("sets of a layer of the SGAN (1: plain GAN); then the other arms", fontsize=8)
        axis.set_ylabel("KL to equal modes, nats", fontsize=8)
        axis.grid(alpha=0.3, axis="y")
        axis.set_ylim(bottom=0)
    return png


def survival_curves(results: Results, part: str) -> io.BytesIO | None:
    """Draw Kaplan-Meier curves of runs that have 8 classes: a run without them counts as lost from the start."""
    arms = [arm for arm in PARTS[part].arms if results.of(part, arm)]
    if not arms:
        return None
    with _figure(6, 4) as (figure, png):
        axis = figure.subplots()
        for arm in arms:
            runs = results.of(part, arm)
            steps, share = kaplan_meier(*survival(part, runs))
            last = PARTS[part].settings["steps"]
            axis.step([0, *steps, last], [1, *share, share[-1] if len(share) else 1], where="post",
                      color=COLOUR.get(arm, "#888888"), label=f"{arm_words(arm)} ({len(runs)})", linewidth=1.8)
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylabel("share of runs with 8 classes not lost\n(never reached: from the start)", fontsize=8)
        axis.grid(alpha=0.3)
        figure.legend(loc="outside lower center", fontsize=7, ncols=2)
    return png


def loss_curves(results: Results, part: str) -> io.BytesIO | None:
    """Draw the losses as the paper's Figures 2, 3, 5 and 6 do: GAN beside SGAN on the same axes, all seeds thin."""
    arms = [arm for arm in ("gan", "sgan4") if results.of(part, arm)]
    if not arms:
        return None
    with _figure(4.2 * len(arms), 3.2) as (figure, png):
        axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axis, arm in zip(axes, arms, strict=True):
            runs = [result["losses"] for result in results.of(part, arm)]
            for name, colour, words in (("d_loss", "#0072b2", "D"), ("g_loss", "#d55e00", "G")):
                _seeds_and_median(axis, [(losses["step"], losses[name]) for losses in runs], colour, words)
            axis.axhline(PRACTICAL_MAXIMUM, color="grey", linestyle=":", linewidth=0.9)
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(0, 40)
            axis.set_title(f"{ARMS[arm].words}, seeds: {len(runs)}", fontsize=9)
            axis.set_xlabel("step", fontsize=8)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
        axes[0].set_ylabel("loss, nats (dotted: 27.6, the paper's practical maximum)", fontsize=7)
    return png


def paper_table(results: Results, jobs: Path, part: str) -> io.BytesIO | None:
    """Draw samples at the paper's steps and the last, GAN above SGAN, with what was measured of each underneath.

    Of the first seed, 4 x 4 images each, from the jobs' folders; the steps in two halves, one below the other. A part
    whose jobs drew at steps of their own (D) is shown at those.
    """
    folders = [(arm, jobs / Job(part, arm, 0).name) for arm in ("gan", "sgan4")]
    folders = [(arm, folder) for arm, folder in folders if (folder / "samples").is_dir()]
    if not folders:
        return None
    last, every = PARTS[part].settings["steps"], PARTS[part].settings["sample_every"]
    papers = PHOTO_STEPS if kind_of(part) == "photos" else DIGIT_STEPS
    steps = sorted({*(papers if every == "paper" else range(0, last, every)), last})
    half = -(-len(steps) // 2)
    with _figure(1.25 * half, 1.6 * 2 * len(folders), jpeg=True) as (figure, data):
        axes = figure.subplots(2 * len(folders), half, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for i, (arm, folder) in enumerate(folders):
            series = results.by_name.get(folder.name, {"series": {"step": []}})["series"]
            for number, step in enumerate(steps):
                path = folder / "samples" / f"step_{step:06d}.png"
                if path.exists():
                    axis = axes[number // half * len(folders) + i][number % half]
                    axis.imshow(_corner(pictures.read_png(path)), cmap="gray", vmin=0, vmax=255)
                    axis.set(xticks=[], yticks=[])
                    axis.set_axis_on()
                    axis.set_title(f"step {step:,}", fontsize=7)
                    axis.set_xlabel(_under(series, step), fontsize=6)
                    if number % half == 0:
                        axis.set_ylabel(ARMS[arm].words, fontsize=7)
    return data


def _corner(picture: np.ndarray) -> np.ndarray:
    """Cut the upper left quarter of a picture of 8 x 8 images: 4 x 4 of them."""
    return picture[:picture.shape[0] // 2 + 1, :picture.shape[1] // 2 + 1]


def _under(series: dict[str, Sequence[float]], step: int) -> str:
    """Return what was measured at a step: classes and KL, or KID."""
    if step not in series["step"]:
        return "" if step else "untrained"
    at = list(series["step"]).index(step)
    if "classes" in series:
        return f"classes: {series['classes'][at]:.0f}, KL {series['kl'][at]:.2f}"
    return f"KID {series['kid'][at]:.2f}" if "kid" in series else ""


def nearest_photos(jobs: Path, part: str) -> io.BytesIO | None:
    """Draw samples of GAN and SGAN, and below each the photo that is nearest to it: nearest.png of the first seeds."""
    found = [(arm, jobs / Job(part, arm, 0).name / "nearest.png") for arm in ("gan", "sgan4")]
    found = [(arm, path) for arm, path in found if path.exists()]
    if not found:
        return None
    with _figure(5 * len(found), 5.3, jpeg=True) as (figure, data):
        for axis, (arm, path) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            axis.imshow(pictures.read_png(path))
            axis.set_axis_off()
            axis.set_title(f"{ARMS[arm].words}: samples, and below each the nearest photo", fontsize=8)
    return data
