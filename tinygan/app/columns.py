"""The columns of log.csv: what each one is called, what it means, and how it is drawn.

The training scripts log these names, the report explains them and curves.py plots them. Other columns may be added to
a log freely: the report lists them by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Colours that colour-blind readers can distinguish, too (Okabe and Ito 2008).
BLUE, RED, GREEN, PINK, SKY, ORANGE, BLACK = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444")


class Column(NamedTuple):
    """A column of the log. words: its row in the report's table. label, colour, style: its curve, label "" where it has
    none. best: min or max where less or more is better."""

    words: str
    label: str = ""
    colour: str = BLACK
    style: str = "-"
    best: Callable[..., Any] | None = None


def _of_images(where: str, top1: str, colour: str, best: Callable[..., Any] | None, prefix: str = ""
               ) -> dict[str, Column]:
    """Return the three columns of metrics.hit_rates for one kind of images."""
    return {
        f"{prefix}top1": Column(f"share of images whose likeliest class is wanted{where}", top1, colour, best=best),
        f"{prefix}top5": Column(f"share with a wanted class among the five likeliest{where}",
                                best=None if prefix else best),
        f"{prefix}probability": Column(f"the classifier's probability of the wanted classes{where}",
                                       "their probability" if not prefix else top1, colour, "--", best)}


COLUMNS: dict[str, Column] = {
    "d_loss": Column("D loss", "D loss", BLUE),
    "g_loss": Column("G loss", "G loss", RED),
    "d_real": Column("D(x): D's mean probability 'real' for real images", "D(x), real images", BLUE),
    "d_fake": Column("D(G(z)): D's mean probability 'real' for generated images", "D(G(z)), generated", RED),
    "d_grad": Column("norm of D's gradient"),
    "g_grad": Column("norm of G's gradient"),
    "logit_gap": Column("logit gap, real minus generated"),
    "spread": Column("variety of the samples (data = 1)"),
    "classes": Column("classes present", "classes present", PINK, best=max),
    "kl": Column("KL of the classes to equal shares (nats)", "KL to equal classes", GREEN, best=min),
    "confidence": Column("mean confidence of the classifier", best=max),
    "samples": Column("images that were measured"),
    # of a GAN of stacked digits, and of one of the study's points
    "modes": Column("modes covered (of stacked digits: distinct triples, of 1,000)", "modes", PINK, best=max),
    "modes_kl": Column("KL of the modes to equal shares (nats)", "KL to equal modes", GREEN, best=min),
    "sure": Column("share of samples with three digits above 0.9", best=max),
    "modes_sure": Column("distinct triples among those samples", best=max),
    # of a GAN of photos
    "kid": Column("kernel distance of features to the photos'", "kernel distance", BLUE, best=min),
    "kid_std": Column("its standard deviation over subsets"),
    "frechet": Column("Fréchet distance of features to the photos'", "Fréchet distance", RED, best=min),
    "precision": Column("precision: share of samples that lie among the photos", "precision", BLUE, best=max),
    "recall": Column("recall: share of photos that lie among the samples", "recall", RED, best=max),
    "density": Column("density of the photos where samples lie (data = 1)", best=max),
    "coverage": Column("coverage: share of photos with a sample near", "coverage", GREEN, best=max),
    "nearest": Column("mean distance of a sample to the nearest photo (pixels)"),
    # of a GPAN
    "wanted": Column("L_p: low where the classifier gives the wanted classes", "wanted, L_p", BLUE, best=min),
    "unwanted": Column("L_n: low where it gives no other class", "unwanted, L_n", SKY, best=min),
    "cgan": Column("L_cGAN: low where D takes patches for real", "L_cGAN", RED),
    "background": Column("L_m: distance of the background from white", "background, L_m", GREEN, best=min),
    "substrate": Column("L_sub: distance of images from their substrates", "substrate, L_sub", PINK, best=min),
    "split": Column("L_split: similarity of the maps within a batch", "L_split", BLACK),
    **{f"pull_{name}": Column(f"norm of the gradient of {loss}, weighted, at the {where}", label, colour)
       for name, loss, where, label, colour in (
           ("vgg", "L_p + L_n", "images", "L_VGG", BLUE), ("cgan", "L_cGAN", "images", "L_cGAN", RED),
           ("background", "L_m", "images", "L_m", GREEN), ("substrate", "L_sub", "images", "L_sub", PINK),
           ("split", "L_split", "maps", "L_split, at the maps", BLACK))},
    **_of_images("", "a wanted class is likeliest", BLUE, max),
    **_of_images(", in the batch", "in training", SKY, None, "train_"),
    **_of_images(", through views that training does not use", "through other views", RED, max, "view_"),
    "variety": Column("change by route over change by noise", "change by route / by noise", GREEN, best=max),
    "speckle": Column("share of fine detail (most photos: 0.003 to 0.2)", "share of fine detail", PINK),
    "map_size": Column("mean size of the stochastic layers' maps"),
}


class Panel(NamedTuple):
    """A plot of loss.png, which has several above one another. curves: names of columns. colours: where a curve has
    another than its column's.

    scale: linear; share (0 to 1, a dotted line at `middle`); log; symlog (log but for values near 0 and below).
    right: a count among the curves, which has a second scale on the right. height in inches.
    """

    words: str
    curves: tuple[str, ...]
    colours: Mapping[str, str] = {}
    scale: str = "linear"
    middle: float | None = None
    right: str | None = None
    legend: str = "best"
    height: float = 2.7


PROBABILITY_REAL = Panel("D's probability 'real'", ("d_real", "d_fake"), scale="share", middle=0.5)
GAN_PANELS = (
    Panel("loss", ("d_loss", "g_loss")),
    PROBABILITY_REAL,
    Panel("distance of features", ("kid", "frechet"), scale="log"),
    Panel("share of samples or photos", ("precision", "recall", "coverage"), scale="share"),
    # A good run ends with one curve at the top and one at the bottom: there is room for the legend between.
    Panel("KL (nats)", ("kl", "classes"), right="classes", legend="center right"),
    Panel("KL of modes (nats)", ("modes_kl", "modes"), right="modes", legend="center right"),
)
GPAN_PANELS = (
    Panel("the classifier's share", ("top1", "view_top1", "train_top1", "probability", "view_probability",
                                     "train_probability"), scale="share"),
    Panel("loss, unweighted", ("wanted", "unwanted", "cgan", "d_loss", "background", "substrate", "split"),
          colours={"d_loss": ORANGE}, scale="symlog", height=3.6),
    Panel("norm of the weighted gradient", ("pull_vgg", "pull_cgan", "pull_background", "pull_substrate",
                                            "pull_split"), scale="log", height=3.2),
    PROBABILITY_REAL,
    Panel("ratio", ("variety", "speckle")),
)
