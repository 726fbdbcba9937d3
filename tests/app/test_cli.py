"""Command lines: value types, one-line errors with the right exit code, what was typed."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from script_tools import ROOT, load_script

from tinygan.app import cli
from tinygan.app.streams import Patient
from tinygan.errors import TinyganError, UsageError

GOOD = [
    (cli.positive_int, "1", 1),
    (cli.positive_int, "64", 64),
    (cli.non_negative_int, "0", 0),
    (cli.positive_float, "2e-4", 2e-4),
    (cli.probability, "0", 0.0),
    (cli.probability, "0.5", 0.5),
    (cli.probability, "1", 1.0),
    (cli.bank_list, "16,16,16,1", (16, 16, 16, 1)),
    (cli.bank_list, "4", (4,)),
    (cli.grid_size, "8x8", (8, 8)),
    (cli.grid_size, "2X30", (2, 30)),
    (cli.route_mode, "sample", "sample"),
    (cli.route_mode, "batch", "batch"),
    (cli.route_mode, "group:8", "group:8"),
    (cli.device, "auto", "auto"),
    (cli.device, "CUDA", "gpu"),
    (cli.device, "gpu:1", "gpu:1"),
]
BAD = [
    (cli.positive_int, ["0", "-1", "1.5", "1e3", "", " ", "ten", "1_000", "٣", "nan", "9" * 30, "0x10"]),
    (cli.non_negative_int, ["-1", "", "0.0", "a"]),
    (cli.positive_float, ["0", "-1", "nan", "inf", "", "x", "1,5", "1e999"]),
    (cli.probability, ["-0.1", "1.1", "nan", "inf", "", "half"]),
    (cli.bank_list, ["", "0", "16,", ",16", "16,,1", "16,-1", "16 16", "a,b", "1.5", "16,0", "9999999"]),
    (cli.grid_size, ["", "8", "8x", "x8", "0x8", "8x0", "-1x8", "8*8", "8x8x8", "101x100", "999999x999999"]),
    (cli.route_mode, ["", "Sample", "each", "group", "group:", "group:0", "group:-1", "group:x", "7"]),
    (cli.device, ["", "gpu:", "gpu:x", "gpu:-1", "tpu", "cpu:0"]),
]


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_good_values(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in BAD for text in texts])
def test_bad_values_exit_with_2_and_one_line(kind, text, capsys):
    parser = cli.Parser(prog="train")
    parser.add_argument("--value", type=kind)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([f"--value={text}"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and error.startswith("error: ") and "--value" in error and "must be" in error
    )


def a_parser():
    parser = cli.Parser(prog="train", version="1.2")
    parser.add_argument("--steps", type=cli.positive_int, default=100, help="how many")
    parser.add_argument("--batch-size", "-b", type=cli.positive_int, default=64, help="images a step")
    parser.add_argument("--model", choices=["sgan", "gan"], default="sgan", help="which")
    parser.add_argument("--resume", nargs="?", const="", help="go on")
    parser.add_argument("--dry-run", action="store_true", help="try")
    parser.add_argument("--pictures", nargs="+", help="some")
    parser.add_argument("--wanted", action="append", help="any number of times")
    parser.add_argument("--out", type=cli.path, help="where")
    return parser


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--stpes", "5"], "unknown flag --stpes: did you mean --steps?"),
        (["--batchsize=5"], "did you mean --batch-size"),
        (["--batch", "5"], "unknown flag --batch"),
        (["--xyzzy"], "unknown flag --xyzzy (--help"),
        (["5000"], "unexpected argument '5000'"),
        (["--steps"], "expected one argument"),
        (["--model", "sgn"], "invalid choice: 'sgn'"),
        (["--steps", "a\nb"], "must be"),
        (["--dry-run=yes"], "explicit argument"),
        (["--steps", "3", "--model", "gan", "--steps", "5"], "--steps: is given twice: give it once"),
        (["-b", "3", "--batch-size=3"], "--batch-size/-b: is given twice"),
        (["--dry-run", "--dry-run"], "is given twice"),
        (["--pictures", "a", "--pictures", "b"], "give it once, with all its values after it"),
        (["--steps=--"], "needs a value"),
        (["--resume=--"], "needs a value"),
        (["--out", ""], "must be a path, not ''"),
    ],
)
def test_wrong_commands_are_one_line(argv, words, capsys):
    with pytest.raises(SystemExit) as caught:
        a_parser().parse_args(argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("\n") == 1 and words in error and "--help" in error


def test_version_and_help(capsys):
    for flag in ("--version", "--help"):
        with pytest.raises(SystemExit) as caught:
            a_parser().parse_args([flag])
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "tinygan 1.2" in out and "default: 100" in out


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ([], set()),
        (["--steps", "100"], {"steps"}),  # typed, though equal to the default
        (["-b", "3", "--dry-run"], {"batch_size", "dry_run"}),
        (["--resume"], {"resume"}),
        (["--resume", "x", "--model=gan"], {"resume", "model"}),
        (["--wanted", "3", "--wanted", "5"], {"wanted"}),
    ],
)
def test_typed(argv, names):
    assert cli.typed(a_parser(), argv) == names


def test_a_tilde_is_the_home_folder_wherever_it_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    assert cli.path("~/runs/1") == tmp_path / "runs" / "1" == a_parser().parse_args(["--out=~/runs/1"]).out
    assert cli.path("a~b") == Path("a~b")


PATH_FLAGS = {"train_mnist": {"--out", "--data-dir", "--resume"}, "evaluate": {"--checkpoint", "--json", "--data-dir"},
              "train_gpan": {"--out", "--resume", "--classifier", "--substrate"}, "gradcam": {"--out", "--classifier"},
              "sample": {"--checkpoint", "--out", "--substrate"}, "weights/train_digits": {"--out", "--data-dir"},
              "weights/convert_vgg16": {"--out", "--classes"}}


@pytest.mark.parametrize("script", PATH_FLAGS)
def test_every_path_of_every_script_is_one(script):
    """Expanded, and never empty."""
    actions = load_script(script).build_parser()._actions
    taken = {word for action in actions if action.type is cli.path for word in action.option_strings}
    assert PATH_FLAGS[script] <= taken and Path not in [action.type for action in actions]


# --- run_main ---


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (TinyganError("no data"), 1, "error: no data"),
        (UsageError("two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "Ctrl-C"),
        (MemoryError(), 1, "--batch-size"),
        (MemoryError("Unable to allocate 4 TiB"), 1, "4 TiB"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            1,
            "No space left on device (runs/a): make room",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "Permission denied (/x)"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
            1,
            "No such file or directory (/x)",
        ),
        (OSError("libcudart.so.12: cannot open"), 1, "libcudart"),
    ],
)
def test_failures_are_one_line(error, code, words, capsys):
    def main(argv):
        raise error

    assert cli.run_main(main, []) == code
    out, text = capsys.readouterr()
    assert not out and text.count("\n") == 1 and words in text


def test_success_exit_codes_and_bugs():
    assert cli.run_main(lambda argv: None, []) == 0
    assert cli.run_main(lambda argv: len(argv), ["a", "b"]) == 2
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        cli.run_main(lambda argv: 1 // 0, [])


@pytest.mark.parametrize("leaves_files", [False, True])
@pytest.mark.parametrize(("streams", "lost"), [("None", False), ("closed", True), ("full", True)])
def test_missing_and_broken_streams_stop_nothing(monkeypatch, tmp_path, streams, lost, leaves_files):
    if streams == "full" and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    for name in ("stdout", "stderr"):
        stream = None if streams == "None" else open("/dev/full" if streams == "full" else tmp_path / name, "w")
        if streams == "closed":
            stream.close()
        monkeypatch.setattr(sys, name, stream)
    done = []

    def main(argv):
        print("caf\udce9 " * 10_000)
        print("to the other one", file=sys.stderr, flush=True)
        done.append(True)

    before = sys.stdout
    assert cli.run_main(main, [], leaves_files=leaves_files) == (1 if lost and not leaves_files else 0)
    assert done and sys.stdout is before


def test_output_that_does_not_arrive_is_said(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert cli.run_main(lambda argv: print("figures"), []) == 1
    assert capsys.readouterr().err == "error: standard output was lost: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_stream_that_is_lost_leads_nowhere_and_costs_nothing():
    """What is still in its buffer must not fail again when Python ends, nor must each line be tried, or take a
    descriptor."""
    stream = open("/dev/full", "w")
    full = Patient(stream)
    full.write("text")
    full.flush()
    assert full.lost.errno == errno.ENOSPC
    assert os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))
    stream.close()
    closed, before = Patient(stream), len(os.listdir("/dev/fd"))
    for _ in range(20):
        closed.write("text")
        closed.flush()
    assert len(os.listdir("/dev/fd")) == before and isinstance(closed.lost, ValueError)
    closed.stream = io.StringIO()
    closed.write("text")
    assert closed.stream.getvalue() == ""


@pytest.fixture
def settings():
    parser = cli.Parser(prog="x")
    group = parser.add_argument_group("nets")
    group.add_argument("--width", type=cli.positive_int, default=3, help="maps")
    group.add_argument("--bank-list", type=cli.bank_list, default=(4, 2), help="sets")
    group.add_argument("--norm", choices=("strict", "none"), help="kind [default: strict]")
    group.add_argument("--fast", action="store_true", help="hurry")
    parser.hide_all_but({"width"}, {"bank_list": "nets.bank"})
    return parser


def test_settings_are_listed_with_default_allowed_values_and_words(settings, capsys):
    assert "--width" in settings.format_help() and "--norm" not in settings.format_help()
    with pytest.raises(SystemExit) as stop:
        settings.parse_args(["--list-settings"])
    assert stop.value.code == 0
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "nets.width --width maps (default: 3) (a whole number above 0)",
        "nets.bank --bank-list sets (default: 4,2) (whole numbers above 0 with commas, or one)",
        "nets.norm --norm kind [default: strict] (strict, none)", "nets.fast --fast hurry (yes or no)"]
    parsed = settings.parse_args(["--set", "nets.bank=1,2", "--set=nets.fast=yes"])
    assert (parsed.bank_list, parsed.fast, parsed.width, parsed.norm) == ((1, 2), True, 3, None)


@pytest.mark.parametrize("typed, words", [
    ("nets.nrom=none", "did you mean nets.norm"), ("norm=none", "did you mean nets.norm?"),
    ("bank-list=3", "did you mean nets.bank?"), ("--fast=yes", "did you mean nets.fast?"),
    ("zzz=1", "no setting of that name (--list-settings"), ("nets.norm", "must be NAME=VALUE"),
    ("nets.norm=strct", "choose from 'strict', 'none'"), ("nets.width=0", "a whole number of at least 1, not '0'")])
def test_a_wrong_setting_is_answered_in_one_line_with_what_is_near(settings, capsys, typed, words):
    with pytest.raises(SystemExit) as stop:
        settings.parse_args(["--set", typed])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and words in line


@pytest.mark.skipif(os.name == "nt", reason="the shell's own way to close a stream")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nothing_printed_lands_in_a_file(tmp_path, closed):
    """A file that is opened where standard output is closed would get its number, and with it its text."""
    code = ("import os, sys; from tinygan.app import cli\n"
            "def main(argv):\n"
            "    with open('data', 'wb') as file:\n"
            "        print('line', flush=True); print('line', file=sys.stderr, flush=True)\n"
            "        [os.write(number, b'from a library') for number in (1, 2)]; file.write(b'data')\n"
            "sys.exit(cli.run_main(main))")
    done = subprocess.run(f'"{sys.executable}" -c "$CODE" {closed}', shell=True, cwd=tmp_path, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "CODE": code})
    assert done.returncode == 0 and (tmp_path / "data").read_bytes() == b"data"
    assert (b"line" in done.stdout, b"line" in done.stderr) == (" >&-" not in f" {closed}", "2>" not in closed)


def test_closed_pipe_is_quiet():
    code = (
        "import sys\nfrom tinygan.app import cli\n"
        "def main(argv):\n    for i in range(100000): print('line', i)\n"
        "sys.exit(cli.run_main(main))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 1
