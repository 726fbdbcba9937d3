"""The health line: one table of situations, the thresholds on both sides, and what a log says."""

import math

import numpy as np
import pytest

from tinygan.metrics import log as metrics_log

GOOD = dict(d_real=0.7, d_fake=0.3, d_loss=0.75, g_loss=1.3)
NAN = math.nan

TABLE = [
    # changes to GOOD, status, what the sentence must contain
    ({}, "well", "all is well"),
    (dict(d_real=0.5, d_fake=0.5, d_loss=1.386, g_loss=0.693), "well", "hardly"),
    (dict(spread=0.9, classes=10, kl=0.05), "well", "10 of 10 classes, KL 0.05"),
    (dict(spread=NAN, classes=NAN, kl=NAN, logit_gap=NAN), "well", "all is well"),
    (dict(d_loss=NAN), "broken", "D loss is nan"),
    (dict(g_loss=math.inf), "broken", "G loss is inf"),
    (dict(d_fake=NAN, g_grad=0.0), "broken", "D(G(z)) is nan"),
    (dict(g_grad=NAN), "broken", "G's gradient is nan"),
    (dict(d_grad=math.inf), "broken", "D's gradient is inf"),
    (dict(step=99, d_fake=0.0, d_real=1.0), "starting", "100"),
    (dict(step=99, d_loss=NAN), "broken", "nan"),
    (dict(step=100), "well", "all is well"),
    (dict(d_real=1.0, d_fake=0.0, d_loss=1e-5, g_loss=27.6, g_grad=0.0), "frozen", "hard collapse"),
    (dict(d_real=1.0, d_fake=0.0, d_loss=1e-5, g_loss=27.6, g_grad=0.5), "D wins", "0.00"),
    (dict(d_real=1.0, d_fake=0.0, d_loss=1e-5, g_loss=27.6), "D wins", "nearly all images"),
    (dict(g_grad=0.0), "well", "all is well"),
    (dict(spread=0.04), "collapsed", "4 % of what real images do"),
    (dict(spread=0.0999), "collapsed", "10 %"),
    (dict(spread=0.1001), "narrow", "10 %"),
    (dict(spread=0.51), "well", "51 %"),
    (dict(classes=2), "collapsed", "2 of 10"),
    (dict(classes=3), "narrow", "3 of 10"),
    (dict(classes=7), "narrow", "7 of 10"),
    (dict(classes=8), "well", "8 of 10"),
    (dict(kl=2.3), "collapsed", "KL 2.30"),
    (dict(kl=1.81), "collapsed", "KL 1.81"),
    (dict(kl=1.79), "narrow", "KL 1.79"),
    (dict(kl=0.6), "narrow", "KL 0.60"),
    (dict(kl=0.4), "well", "KL 0.40"),
    (dict(histogram=[1000] + [0] * 9), "collapsed", "1 of 10 classes, KL 2.30"),
    (dict(histogram=[100] * 10), "well", "10 of 10 classes, KL 0.00"),
    (dict(histogram=[1000] + [100] * 9), "narrow", "10 of 10"),
    (dict(histogram=[200] * 5 + [1] * 5), "narrow", "5 of 10"),
    (dict(spread=0.04, d_real=0.99, d_fake=0.01), "collapsed", "same picture"),
    (dict(logit_gap=21.0), "D wins", "logit gap 21.0"),
    (dict(logit_gap=19.0), "well", "all is well"),
    (dict(d_real=0.96, d_fake=0.04, d_loss=0.08, g_loss=3.2), "D wins", "0.96 real and generated ones 0.04"),
    (dict(d_real=0.94, d_fake=0.04, d_loss=0.1, g_loss=3.2), "well", "mostly"),
    (dict(d_real=0.9, d_fake=0.8), "G wins", "0.80"),
    (dict(d_real=0.4, d_fake=0.5), "G wins", "takes generated images for real"),
    (dict(d_real=0.48, d_fake=0.5), "well", "hardly"),
]


@pytest.mark.parametrize(("change", "status", "words"), TABLE)
def test_table(change, status, words):
    found = metrics_log.assess(**(GOOD | change))
    assert found.status == status, found.sentence
    assert words in found.sentence and "\n" not in found.sentence


def test_every_state_of_the_docstring_is_in_the_table():
    assert {status for _, status, _ in TABLE} == {
        "broken", "starting", "frozen", "collapsed", "D wins", "G wins", "narrow", "well",
    }  # fmt: skip
    assert all(status in metrics_log.__doc__ for _, status, _ in TABLE)


def row(step, **numbers):
    return {"step": step} | GOOD | numbers


def test_one_odd_batch_is_not_a_verdict_but_nan_is():
    rows = [row(100 * i) for i in range(1, 11)]
    assert metrics_log.assess_log(rows).status == "well"
    assert metrics_log.assess_log([*rows, row(1100, d_real=1.0, d_fake=0.0)]).status == "well"
    lasting = [row(1100 + i, d_real=1.0, d_fake=0.0) for i in range(5)]
    assert metrics_log.assess_log(rows + lasting).status == "D wins"
    assert metrics_log.assess_log([*rows, row(1100, g_loss=NAN)]).status == "broken"


def test_rare_measures_keep_their_last_value():
    rows = [row(200, classes=1, kl=2.3)] + [row(300 + i) for i in range(10)]
    assert metrics_log.assess_log(rows).status == "collapsed"
    assert metrics_log.assess_log([*rows, row(400, classes=10, kl=0.1)]).status == "well"


def test_the_line_of_a_log_is_its_verdict_with_the_step():
    rows = [row(100 * i, d_real=0.5 + 0.02 * i) for i in range(1, 11)]
    assert metrics_log.line(rows) == f"step 1000: {metrics_log.assess_log(rows).sentence}"
    assert "D calls real images 0.66 real" in metrics_log.line(rows)  # the median of five, not the last


def test_empty_and_foreign_logs():
    assert metrics_log.assess_log([]).status == "starting"
    assert "d_real" in metrics_log.assess_log([{"step": 500, "loss": 1.0}]).sentence


def test_history_tells_the_changes():
    rows = [row(50)] + [row(100 * i, spread=0.9 if i < 10 else 0.05) for i in range(1, 20)]
    assert [(step, state.status) for step, state in metrics_log.history(rows)] == [
        (50, "starting"), (100, "well"), (1000, "collapsed"),
    ]  # fmt: skip


def test_relative_spread():
    data = np.random.default_rng(0).random((100, 1, 4, 4))
    assert metrics_log.relative_spread(data, data) == 1.0
    assert metrics_log.relative_spread(0.5 * data, data) == pytest.approx(0.5)
    assert metrics_log.relative_spread(np.ones((5, 1, 4, 4)), data) == 0.0
    assert math.isnan(metrics_log.relative_spread(data, np.ones((5, 1, 4, 4))))
