"""Runs from before settings were declared by dataclasses: their config.json goes on, name for name."""

import json

import pytest
from gpan_tools import TINY as GPAN_TINY
from script_tools import TINY, load_script, over, write_mnist

from tinygan.app import checkpoint, cli
from tinygan.models.classifiers.load import find_classifier

# Every flag that config.json held then.
MNIST = """
model steps epochs batch_size bank routes base_channels latent_dim size seed optimizer lr d_lr lr_decay lr_warmup
beta1 beta2 ema bank_updates loss bce noise norm act slope clamp bank_affine bank_act init_factor init_scale d_input
output data_dir device tf32 threads out resume overwrite log_every sample_every save_every eval_every dry_run
detect_anomaly
""".split()
GPAN = """
classifier wanted substrate substrate_flip size channels steps batch_size accumulate bank routes seed weight_split
weight_cgan weight_vgg weight_background weight_substrate cam cam_threshold cam_for substrate_where class_loss
unwanted background_over split_sign split_scale split_unit barrier loss views whole view_scale view_rotation
view_shift view_flip view_blur view_coarse view_noise view_plain view_warmup optimizer lr d_lr lr_decay lr_warmup
beta1 beta2 ema bank_updates base_channels patch_channels noise_dim painter_sees critic_sees skips start map_norm
smooth norm act slope clamp device tf32 threads out resume overwrite log_every sample_every save_every eval_every
dry_run detect_anomaly
""".split()


LATER = ("d_base_channels", "pack", "one_hot")  # fields of the nets' settings that checkpoints lacked then


def go_on(script, first, tmp_path, monkeypatch, names, **old):
    """Whether a run of which config.json holds exactly `names`, some with `old` values, goes on to the same bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.Run, "finish", lambda run: [])
    for out, steps in (("whole", 4), ("part", 2)):
        assert cli.run_main(script.main, over(first, ["--steps", steps, "--out", out])) == 0
    path = tmp_path / "part/config.json"
    config = json.loads(path.read_text())
    assert set(config["flags"]) >= set(names)  # the names of old runs stay
    assert {name: config["flags"][name] for name in old} == old
    config["flags"] = {name: config["flags"][name] for name in names}  # in the order they had
    path.write_text(json.dumps({"flags": config["flags"], "versions": config["versions"]}))
    arrays, meta = checkpoint.load("part")
    meta["config"] = {name: value for name, value in meta["config"].items() if name not in LATER}
    checkpoint.save("part/checkpoint.npz", arrays, meta)
    assert cli.run_main(script.main, ["--resume", "part", "--steps", "4"]) == 0
    assert (tmp_path / "part/checkpoint.npz").read_bytes() == (tmp_path / "whole/checkpoint.npz").read_bytes()


def test_a_gans(tmp_path, monkeypatch):
    script = load_script("train_mnist")
    monkeypatch.setattr(script, "find_classifier", lambda notify=print: None)
    first = [*TINY, "--data-dir", str(write_mnist(tmp_path / "mnist")), "--d-input", "01", "--norm", "affine"]
    go_on(script, first, tmp_path, monkeypatch, MNIST, d_input="01", norm="affine", bank_affine=False, bank=[2])


def test_an_old_gans_checkpoint_draws(tmp_path, monkeypatch):
    script = load_script("train_mnist")
    monkeypatch.setattr(script, "find_classifier", lambda notify=print: None)
    monkeypatch.chdir(tmp_path)
    assert cli.run_main(script.main, [*TINY, "--data-dir", str(write_mnist(tmp_path / "mnist")), "--steps", "1",
                                      "--out", "run"]) == 0
    arrays, meta = checkpoint.load("run")
    for out in ("new.png", "old.png"):
        assert cli.run_main(load_script("sample").main, ["--checkpoint", "run", "--n", "2", "--out", out]) == 0
        for name in LATER:
            meta["config"].pop(name, None)
        checkpoint.save("run/checkpoint.npz", arrays, meta)
    assert (tmp_path / "old.png").read_bytes() == (tmp_path / "new.png").read_bytes()


def test_a_gpans(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    if find_classifier(print) is None:
        pytest.skip("no classifier")
    first = [*GPAN_TINY, "--cam-for", "generator", "--split-sign", "plus", "--split-unit", "one", "--view-flip", "yes"]
    go_on(load_script("train_gpan"), first, tmp_path, monkeypatch, GPAN, cam_for="generator", split_sign="plus",
          split_unit="one", view_flip="yes", whole="no", substrate_where="everywhere")
