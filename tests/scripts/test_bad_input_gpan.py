"""train_gpan.py, and the other scripts on its runs: whatever is typed or handed over is answered in one line.

As in test_bad_input.py, each case runs through the script's own entry and starts from good files, which must be the
same afterwards, byte for byte; nothing new may lie about either.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gpan_tools import TINY, write_picture
from PIL import Image
from script_tools import TINY as MNIST_TINY
from script_tools import contents, load_script, over, start_script, write_mnist
from test_bad_input import (
    FAILED,
    USAGE,
    WEB_PAGE,
    Place,
    answer,
    checked,
    cut,
    flags,
    flip,
    objects,
    pop,
    put,
    reshape,
)
from vgg16_tools import small_file

from tinygan.app import checkpoint, cli
from tinygan.models.classifiers.digits import SHIPPED
from tinygan.models.classifiers.load import find_classifier

pytest.importorskip("h5py")
SCRIPTS = {name: load_script(name) for name in ("train_gpan", "train_mnist", "sample", "evaluate", "gradcam")}
ROOT = Path(__file__).resolve().parents[2]
ALL_BUT_ONE = "a_cat,ZEBRA,oiseau mouche,Übel"  # of the classes of the small VGG16


@dataclass
class Site(Place):
    """As a Place; data holds vgg16.h5, unnamed.h5, red.png and mnist, a run of train_mnist.py."""

    def file(self, name: str, content: bytes) -> Path:
        (self.root / name).write_bytes(content)
        return self.root / name

    def picture(self, name: str, value: int, **files) -> Path:
        """An image of one grey."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(path)
        return path

    def vgg16(self, change) -> Path:
        return self.file("changed.h5", change((self.data / "vgg16.h5").read_bytes()))


def vgg(*words):
    """A command line with the small VGG16."""
    return lambda place: ["--classifier", str(place.data / "vgg16.h5"), *words]


resume, substrate, classifier, out, sample = (checked(words) for words in (
    ["--steps", "9", "--resume"], ["--substrate"], ["--wanted", "1", "--classifier"], ["--out"], ["--checkpoint"]))


def run_and(*words):
    return lambda place: ["--checkpoint", str(place.run), *words]


def resumed_with(*words):
    return lambda place: ["--resume", str(place.run), *words]


def of_header(**values):
    return lambda place: place.run_with_state(put(**values))


ALL_WEIGHTS = [f"--weight-{name}=0" for name in ("split", "cgan", "vgg", "background", "substrate")]

TRAIN = [
    # classes
    ("unknown class", vgg("--wanted", "zebar"), USAGE, "did you mean zebra?"),
    ("unknown class among known ones", vgg("--wanted", "zebra,flamingo"), USAGE, "unknown class 'flamingo'"),
    ("the steps of the paper's digits", flags("--sample-every", "paper"), USAGE, "must be a whole number"),
    ("unknown digit", flags("--wanted", "nine"), USAGE, "there are 10"),
    ("a class of a VGG16", flags("--wanted", "flamingo"), USAGE,
     "of the digit classifier, and --classifier weights/vgg16.h5 has others"),
    ("an id that is none", flags("--wanted", "10"), USAGE, "ids are 0 to 9"),
    ("an id that is none in the second set", flags("--wanted", "3", "--wanted", "3,10"), USAGE, "ids are 0 to 9"),
    ("a negative id", flags("--wanted=-1"), USAGE, "class -1: ids are 0 to 9"),
    ("a set of nothing", flags("--wanted", ""), USAGE, "unknown class ''"),
    ("a set with a hole", flags("--wanted", "3,,5"), USAGE, "unknown class ''"),
    ("wanted without a value", flags("--wanted"), USAGE, "--wanted"),
    ("all classes at once", flags("--wanted", "0,1,2,3,4,5,6,7,8,9"), USAGE, "one must be left"),
    ("all classes at once, with a VGG16", vgg("--wanted", "0,1,2,3,4"), USAGE, "one must be left"),
    ("a VGG16 and no class", vgg(), USAGE, "say what to paint: --wanted"),
    ("a name where there are none", lambda p: ["--classifier", str(p.data / "unnamed.h5"), "--wanted", "zebra"], USAGE,
     "unknown class 'zebra'"),
    # the classifier
    ("no such classifier", classifier(lambda p: p.root / "nowhere.h5"), FAILED, "nowhere.h5"),
    ("classifier cut off", classifier(lambda p: p.vgg16(cut)), FAILED, "changed.h5"),
    ("classifier is a web page", classifier(lambda p: p.file("x.h5", WEB_PAGE)), FAILED, "x.h5"),
    ("classifier is empty", classifier(lambda p: p.file("x.h5", b"")), FAILED, "x.h5"),
    ("classifier is a folder", classifier(Site.folder), FAILED, "folder"),
    ("classifier is a picture", classifier(lambda p: p.data / "red.png"), FAILED, "red.png"),
    ("classifier is the digits'", classifier(lambda p: SHIPPED), FAILED, "digits.h5"),
    ("a VGG16 on grey images", vgg("--wanted", "1", "--channels", "1"), USAGE, "for images in colour"),
    # substrates
    ("no such substrate", substrate(lambda p: p.root / "no.png"), FAILED, "no.png: name a picture"),
    ("substrate is a web page", substrate(lambda p: p.file("shirt.png", WEB_PAGE)), FAILED,
     "shirt.png: it is not a picture"),
    ("substrate is empty", substrate(lambda p: p.file("shirt.png", b"")), FAILED, "it is empty"),
    ("substrate is cut off", substrate(lambda p: p.file("x.png", cut((p.data / "red.png").read_bytes()))), FAILED,
     "cut off, damaged"),
    ("substrate is white", substrate(lambda p: p.picture("white.png", 255)), FAILED, "no object found"),
    ("substrate without background", substrate(lambda p: p.picture("grey.png", 99)), FAILED, "no background found"),
    ("one good substrate, one bad", lambda p: ["--substrate", str(p.data / "red.png"), "--substrate",
                                               str(p.root / "no.png")], FAILED, "no.png"),
    ("an empty folder of substrates", substrate(Site.folder), FAILED, "it is empty"),
    ("a folder of something else", substrate(lambda p: p.folder(thesis="three years")), FAILED, "no images in"),
    ("a folder of white pictures", substrate(lambda p: p.picture("folder/white.png", 255).parent), FAILED,
     "none of the 1 images"),
    ("a folder among files", lambda p: ["--substrate", str(p.data / "red.png"), "--substrate", str(p.folder())], FAILED,
     "a folder, not a file"),
    # numbers
    ("size between", flags("--size", "96"), USAGE, "96"),
    ("size too small", flags("--size", "32"), USAGE, "32"),
    ("two channels", flags("--channels", "2"), USAGE, "2"),
    ("a batch of one", flags("--batch-size", "1"), USAGE, "compares the images of a part"),
    ("parts of one", flags("--batch-size", "4", "--accumulate", "4"), USAGE, "2 or more"),
    ("parts that do not fit", flags("--batch-size", "4", "--accumulate", "3"), USAGE, "3 equal parts"),
    ("more parts than images", flags("--batch-size", "2", "--accumulate", "4"), USAGE, "4 equal parts"),
    ("no loss at all", flags(*ALL_WEIGHTS), USAGE, "nothing to learn"),
    ("nothing to classify", flags("--views", "0", "--whole", "no"), USAGE, "leaves the classifier no images"),
    ("a generator that starts on black", flags("--painter-sees", "edges"), USAGE, "--start nothing"),
    *[(f"{flag} {value}", flags(f"{flag}={value}"), USAGE, text) for flag, value, text in [
        ("--weight-vgg", "-1", "--weight-vgg"), ("--weight-split", "nan", "--weight-split"),
        ("--weight-cgan", "inf", "--weight-cgan"), ("--lr", "-1", "above 0"), ("--lr", "0", "above 0"),
        ("--d-lr", "nan", "above 0"), ("--split-scale", "0", "above 0"), ("--seed", "-1", "at least 0"),
        ("--noise-dim", "-1", "at least 0"), ("--views", "-1", "at least 0"), ("--base-channels", "0", "at least 1"),
        ("--patch-channels", "0", "at least 1"), ("--smooth", "-1", "at least 0"), ("--batch-size", "0", "at least 1"),
        ("--accumulate", "0", "at least 1"), ("--steps", "9" * 40, "whole number"), ("--steps", "1.5", "whole number"),
        ("--view-noise", "-1", "--view-noise"), ("--view-rotation", "-1", "--view-rotation"),
        ("--view-rotation", "9", "rotation must lie between 0 and 3.142"), ("--view-shift", "99", "shift must lie"),
        ("--view-noise", "99", "noise must lie"), ("--view-scale", "1", "--view-scale"),
        ("--view-scale", "0,1", "--view-scale"), ("--view-scale", "2,1", "--view-scale"),
        ("--view-scale", "small,large", "--view-scale"), ("--view-coarse", "0.5,2", "coarse"),
        ("--view-coarse", "0,1", "coarse"), ("--view-blur", "2", "from 0 to 1"), ("--view-warmup", "-1", "at least 0"),
        ("--barrier", "1.5", "from 0 to 1"), ("--cam-threshold", "-0.1", "from 0 to 1"), ("--slope", "2", "0 to 1"),
        ("--ema", "1", "below 1"), ("--beta2", "1", "below 1"), ("--views", "999", "the most that makes sense"),
        ("--base-channels", "9" * 18, "the most that makes"), ("--noise-dim", "9" * 18, "the most that makes"),
        ("--patch-channels", "9" * 18, "the most that makes sense"), ("--batch-size", "9" * 18, "the most that makes"),
        ("--bank", "2,2", "give one whole number from 1 to"), ("--bank", "0", "16,16,16"),
        ("--routes", "any", "group:SIZE"),
        ("--cam", "hard", "invalid choice: 'hard'"), ("--start", "noise", "invalid choice"),
        ("--class-loss", "l2", "invalid"), ("--split-sign", "-", "invalid choice"), ("--whole", "half", "invalid"),
        ("--skips", "some", "invalid choice"), ("--loss", "wgan", "invalid"), ("--device", "tpu", "auto, cpu, gpu"),
        ("--threads", "0", "at least 1"), ("--log-every", "0", "at least 1")]],
    ("Adam's flag without Adam", flags("--optimizer", "rmsprop", "--beta1", "0.9"), USAGE, "--optimizer adam"),
    ("mistyped flag", flags("--substrat", "x"), USAGE, "did you mean --substrate"),
    ("train_mnist's flag", flags("--model", "gan"), USAGE, "unknown flag --model"),
    ("a word without a flag", flags("flamingo"), USAGE, "unexpected argument 'flamingo'"),
    ("gpu without CuPy", flags("--device", "gpu"), FAILED, "CuPy is not installed"),
    # places
    ("out is a run", out(lambda p: p.run), USAGE, "--overwrite"),
    ("out is somebody's folder", out(lambda p: p.folder(thesis="three years")), USAGE, "not empty"),
    ("out is a file", out(lambda p: p.run / "log.csv"), FAILED, "--out"),
    ("out cannot be written", out(Site.unwritable), FAILED, "--out"),
    ("dry run into a full folder", lambda p: ["--dry-run", "--out", str(p.run)], USAGE, "not empty"),
    ("overwrite with a bad flag", lambda p: ["--out", str(p.run), "--overwrite", "--bank", "2,2"], USAGE, "bank"),
    ("overwrite with an unknown class", lambda p: ["--out", str(p.run), "--overwrite", "--wanted", "x"], USAGE, "'x'"),
    ("overwrite with a bad substrate", lambda p: ["--out", str(p.run), "--overwrite", "--substrate",
                                                  str(p.root / "no.png")], FAILED, "no.png"),
    ("overwrite with bad views", lambda p: ["--out", str(p.run), "--overwrite", "--view-shift", "50"], USAGE, "shift"),
    ("overwrite with a bad classifier", lambda p: ["--out", str(p.run), "--overwrite", "--wanted", "1", "--classifier",
                                                   str(p.root / "no.h5")], FAILED, "no.h5"),
    # resume
    ("resume of nothing", flags("--resume"), USAGE, "no run gpan-NUMBER"),
    ("resume of a missing folder", resume(lambda p: p.root / "nowhere"), FAILED, "not the folder of a run"),
    ("resume of another folder", resume(Site.folder), FAILED, "not the folder of a run"),
    ("resume of a run of train_mnist.py", resume(lambda p: p.data / "mnist"), FAILED, "have no --wanted"),
    ("resume without a checkpoint", resume(lambda p: p.copy_of_run(without=[checkpoint.FILE_NAME])), FAILED,
     "no checkpoint.npz"),
    ("resume without settings", resume(lambda p: p.copy_of_run(without=["config.json"])), FAILED, "config.json"),
    ("settings are a web page", resume(lambda p: p.run_with_config(WEB_PAGE.decode())), FAILED, "is damaged"),
    ("settings are a list", resume(lambda p: p.run_with_config("[1]")), FAILED, "is damaged"),
    ("settings edited to a word", resume(lambda p: p.run_with_config(batch_size="four")), USAGE, "'four'"),
    ("wanted edited to a word", resume(lambda p: p.run_with_config(wanted="nine")), USAGE, "'nine'"),
    ("wanted edited to a number", resume(lambda p: p.run_with_config(wanted=[9])), FAILED, "other settings"),
    ("wanted edited to nothing", resume(lambda p: p.run_with_config(wanted=[])), USAGE, "unknown class ''"),
    ("wanted edited to other sets", resume(lambda p: p.run_with_config(wanted=["3", "9"])), FAILED, "other settings"),
    ("substrate edited to one that is gone", resume(lambda p: p.run_with_config(substrate=["gone.png"])), FAILED,
     "gone.png"),
    ("classifier edited to one that is gone", resume(lambda p: p.run_with_config(classifier="gone.h5")), FAILED,
     "gone.h5"),
    ("settings of another net", resume(lambda p: p.run_with_config(base_channels=3)), FAILED, "other settings"),
    ("settings of another optimiser", resume(lambda p: p.run_with_config(optimizer="rmsprop")), FAILED, "optimizer"),
    ("settings without the average", resume(lambda p: p.run_with_config(ema=0)), FAILED, "'average/"),
    *[(f"resume with another {flag}", resumed_with(flag, value), USAGE, f"{flag} is {value} but") for flag, value in [
        ("--wanted", "9"), ("--bank", "3"), ("--cam", "off"), ("--views", "4"), ("--weight-vgg", "1.5"),
        ("--seed", "4"), ("--size", "128"), ("--batch-size", "4"), ("--lr", "0.5"),
        ("--substrate", "x.png"), ("--classifier", "x.h5")]],
    ("dry run of a resume", resumed_with("--dry-run"), USAGE, "leave --resume out"),
    ("checkpoint cut off", resume(lambda p: p.run_with_file(cut)), FAILED, "checkpoint"),
    ("checkpoint with a flipped bit", resume(lambda p: p.run_with_file(flip)), FAILED, "CRC"),
    ("checkpoint is a web page", resume(lambda p: p.run_with_file(lambda _: WEB_PAGE)), FAILED, "not a checkpoint"),
    ("checkpoint is empty", resume(lambda p: p.run_with_file(lambda _: b"")), FAILED, "checkpoint"),
    ("checkpoint holds objects", resume(lambda p: p.run_with_file(lambda _: objects())), FAILED, "Python objects"),
    ("checkpoint of another net", resume(lambda p: p.run_with_state(reshape("generator/deconvs.0.weight"))), FAILED,
     "deconvs.0.weight"),
    ("checkpoint lacks a weight", resume(lambda p: p.run_with_state(pop("discriminator/last.weight"))), FAILED,
     "last.weight"),
    ("checkpoint lacks the average", resume(lambda p: p.run_with_state(pop("average/convs.0.weight"))), FAILED,
     "convs.0.weight"),
    ("checkpoint of other sets", resume(of_header(sets=[[3]])), FAILED, "other settings"),
    ("checkpoint of no sets", resume(lambda p: p.run_with_state(lambda a, meta: meta.pop("sets"))), FAILED, "'sets'"),
    ("checkpoint without random states", resume(of_header(streams={})), FAILED, "train_gpan.py"),
    ("random states of another kind", resume(of_header(streams=7)), FAILED, "train_gpan.py"),
    ("a random state of another kind", resume(lambda p: p.run_with_state(
        lambda a, meta: meta["streams"].update(noise={"bit_generator": "MT19937"}))), FAILED, "PCG64"),
    ("checkpoint at no step", resume(lambda p: p.run_with_state(lambda a, meta: meta.pop("step"))), FAILED, "step"),
    ("checkpoint at a negative step", resume(of_header(step=-3)), FAILED, "step"),
]

SAMPLE = [
    ("wanted of another run", run_and("--wanted", "9"), USAGE, "this run was trained for 3, 5; 8"),
    ("one class of two", run_and("--wanted", "5"), USAGE, "this run was trained for 3, 5; 8"),
    ("wanted is no class", run_and("--wanted", "zebra"), USAGE, "this run was trained for 3, 5; 8"),
    ("wanted is nothing", run_and("--wanted", ""), USAGE, "this run was trained for 3, 5; 8"),
    ("route out of range", run_and("--route", "2,0,0,0"), USAGE, "each below its bank size"),
    ("route too short", run_and("--route", "0"), USAGE, "takes 4 numbers"),
    ("no such substrate", run_and("--substrate", "gone.png"), FAILED, "gone.png"),
    ("substrate is a web page", lambda p: [*run_and()(p), "--substrate", str(p.file("x.png", WEB_PAGE))], FAILED,
     "not a picture"),
    ("substrate is white", lambda p: [*run_and()(p), "--substrate", str(p.picture("white.png", 255))], FAILED,
     "no object found"),
    ("an empty folder of substrates", lambda p: [*run_and()(p), "--substrate", str(p.folder())], FAILED, "it is empty"),
    ("substrate without a value", run_and("--substrate"), USAGE, "--substrate"),
    ("too large a picture", run_and("--n", "9000", "--scale", "60"), USAGE, "take fewer"),
    ("out in no folder", run_and("--out", "no/grid.png"), FAILED, "make it"),
    ("not a picture name", run_and("--out", "grid.bmp"), USAGE, "name a .png file"),
    ("no settings beside the checkpoint", sample(lambda p: p.copy_of_run(without=["config.json"])), FAILED,
     "config.json"),
    ("settings are a web page", sample(lambda p: p.run_with_config(WEB_PAGE.decode())), FAILED, "is damaged"),
    ("settings say it sees nothing", sample(lambda p: p.run_with_config(painter_sees="nothing")), FAILED, "'nothing'"),
    ("settings name a substrate that is gone", sample(lambda p: p.run_with_config(substrate=["gone.png"])), FAILED,
     "gone.png"),
    ("settings name a number for a substrate", sample(lambda p: p.run_with_config(substrate=7)), FAILED, "substrate"),
    ("checkpoint cut off", sample(lambda p: p.run_with_file(cut)), FAILED, "checkpoint"),
    ("checkpoint lacks a weight", sample(lambda p: p.run_with_state(pop("average/deconvs.1.weight"))), FAILED,
     "deconvs.1"),
    ("header without sets", sample(lambda p: p.run_with_state(lambda a, meta: meta.pop("sets"))), FAILED, "sets"),
    ("header with a set of nothing", sample(of_header(sets=[[]])), FAILED, "sets"),
    ("header with sets of words", sample(of_header(sets=[["three"]])), FAILED, "not understood"),
    ("header with a class that is none", sample(of_header(sets=[[3, 5], [77]])), FAILED, "not understood"),
    ("header with too few classes", sample(of_header(sets=[[3]])), FAILED, "categories"),
    ("header with no names", sample(of_header(classes=7)), FAILED, "not understood"),
    ("header without a config", sample(of_header(config=None)), FAILED, "not understood"),
    ("config with an unknown entry", sample(lambda p: p.run_with_state(
        lambda a, meta: meta["config"].update(shine=3))), FAILED, "shine"),
    ("config of an unknown size", sample(lambda p: p.run_with_state(
        lambda a, meta: meta["config"].update(size=65))), None, "size is 65"),
    ("config of a wider net", sample(lambda p: p.run_with_state(
        lambda a, meta: meta["config"].update(base_channels=4))), FAILED, "shape"),
    ("a GAN has no wanted classes", lambda p: ["--checkpoint", str(p.data / "mnist"), "--wanted", "3"], USAGE,
     "--wanted is for runs of train_gpan.py"),
    ("a GAN paints on nothing", lambda p: ["--checkpoint", str(p.data / "mnist"), "--substrate", "x.png"], USAGE,
     "--substrate is for runs of train_gpan.py"),
]

OTHERS = [
    ("train_mnist", "resume of a GPAN's run", resume(lambda p: p.run), FAILED, "have no --data-dir"),
    ("train_mnist", "resume of a GPAN's checkpoint", resume(lambda p: p.run / checkpoint.FILE_NAME), FAILED,
     "is not a run of"),
    ("evaluate", "a GPAN's run", run_and(), FAILED, "report.html has what was measured"),
    *[("gradcam", name, words, code, text) for name, words, code, text in [
        ("no picture", flags(), USAGE, "IMAGE"),
        ("an empty name", flags(""), USAGE, "must be a path, not ''"),
        ("the working folder", flags("."), USAGE, ". is a folder: name a picture"),
        ("the root folder", flags("/"), USAGE, "/ is a folder: name a picture"),
        ("no such picture", lambda p: ["no.png", *vgg()(p)], FAILED, "no.png"),
        ("a web page", lambda p: [str(p.file("x.png", WEB_PAGE)), *vgg()(p)], FAILED, "not a picture"),
        ("no such classifier", lambda p: [str(p.data / "red.png"), "--classifier", "no.h5"], FAILED, "no.h5"),
        ("classifier is the digits'", lambda p: [str(p.data / "red.png"), "--classifier",
                                                 str(SHIPPED)], FAILED, "digits.h5"),
        ("classifier cut off", lambda p: [str(p.data / "red.png"), "--classifier", str(p.vgg16(cut))], FAILED,
         "changed.h5"),
        ("unknown class", lambda p: [str(p.data / "red.png"), *vgg("--class", "zebar")(p)], USAGE, "mean zebra"),
        ("an id that is none", lambda p: [str(p.data / "red.png"), *vgg("--class", "5")(p)], USAGE, "ids are 0 to 4"),
        ("unknown layer", lambda p: [str(p.data / "red.png"), *vgg("--layer", "fc6")(p)], USAGE, "--layer fc6"),
        ("out is the picture", lambda p: [str(p.data / "red.png"), *vgg("--out", str(p.data / "red.png"))(p)], USAGE,
         "name another file"),
        ("out in no folder", lambda p: [str(p.data / "red.png"), *vgg("--out", "no/x.png")(p)], FAILED, "make it"),
    ]],
]
TABLE = [("train_gpan", *case) for case in TRAIN] + [("sample", *case) for case in SAMPLE] + OTHERS


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A finished run of three steps, one of train_mnist.py, a small VGG16 and a picture."""
    if find_classifier() is None:
        pytest.skip("no classifier to train a GPAN with")
    root = tmp_path_factory.mktemp("good")
    write_picture(root / "data/red.png")
    small_file(root / "data/vgg16.h5")
    small_file(root / "data/unnamed.h5", names=())
    digits = write_mnist(root / "digits")
    gpan, mnist = SCRIPTS["train_gpan"], SCRIPTS["train_mnist"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "find_classifier", lambda notify=print: None)
        for script in (gpan, mnist):
            patch.setattr(script.Run, "finish", lambda run: [])
        words = ["--steps", "3", "--log-every", "1"]
        assert cli.run_main(gpan.main, [*TINY, *words, "--wanted", "3,5", "--wanted", "8", "--out",
                                         str(root / "run")]) == 0
        assert cli.run_main(mnist.main, [*MNIST_TINY, *words, "--data-dir", str(digits), "--out",
                                          str(root / "data/mnist")]) == 0
    return root


def test_every_bad_input_is_answered_in_one_line(good, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    names = [(script, name) for script, name, *_ in TABLE]
    assert len(set(names)) == len(names) > 150
    before, failures = contents(good), []
    for number, (script, name, make_words, code, text) in enumerate(TABLE):
        root = tmp_path / str(number)
        (root / "cwd").mkdir(parents=True)
        monkeypatch.chdir(root / "cwd")
        words = make_words(Site(root, good / "run", good / "data"))
        own = contents(root)
        if script == "train_gpan" and "--resume" not in words:
            words = over([*TINY, "--steps", "1"], words)  # if a fault is not seen, let it not take long
        entry = SCRIPTS[script].main
        got, lines = answer(entry, words, capsys)
        told = len(lines) == 1 and lines[0].startswith("error: ") and text in lines[0] and "Traceback" not in lines[0]
        if not (told and got in ((USAGE, FAILED) if code is None else (code,))):
            failures.append(f"{script}, {name}: exit {got}, said {str(lines)[:300]}")
        if contents(good) != before or contents(root) != own or any((root / "cwd").iterdir()):
            failures.append(f"{script}, {name}: files were changed")
    with capsys.disabled():
        print(f"\nbad input to a GPAN answered {len(TABLE) - len(failures)}/{len(TABLE)}")
    assert not failures, "\n".join(failures)


def test_the_good_files_are_good(good, tmp_path, monkeypatch, capsys):
    """Else the table would prove little: the same command lines without their fault do what they should."""
    monkeypatch.setattr(SCRIPTS["train_gpan"].Run, "finish", lambda run: [])
    run = shutil.copytree(good / "run", tmp_path / "run")
    gpan, sampler, gradcam = (SCRIPTS[name] for name in ("train_gpan", "sample", "gradcam"))
    assert cli.run_main(gpan.main, ["--resume", str(run), "--steps", "4"]) == 0
    out = str(tmp_path / "a.png")
    assert cli.run_main(sampler.main, ["--checkpoint", str(run), "--wanted", "8", "--out", out]) == 0
    red, vgg16 = str(good / "data/red.png"), str(good / "data/vgg16.h5")
    assert cli.run_main(gradcam.main, [red, "--classifier", vgg16, "--out", str(tmp_path / "b.png")]) == 0
    words = ["--steps", "1", "--classifier", vgg16, "--wanted", ALL_BUT_ONE, "--substrate", red]
    assert cli.run_main(gpan.main, over(TINY, [*words, "--out", tmp_path / "vgg"])) == 0
    assert json.loads((tmp_path / "vgg/config.json").read_text())["flags"]["wanted"] == [ALL_BUT_ONE]


@pytest.mark.parametrize("words, code, text", [
    (["--wanted", "ten", "--device", "cpu"], USAGE, "unknown class 'ten'"),
    (["--substrate", "nowhere.png", "--device", "cpu"], FAILED, "no file nowhere.png"),
    (["--resume"], USAGE, "found no run gpan-NUMBER"),
])
def test_as_a_process_of_its_own(tmp_path, words, code, text):
    process = start_script("train_gpan", *words, cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(err.splitlines()) == 1 and err.startswith("error: ") and text in err
    assert list(tmp_path.iterdir()) == []
