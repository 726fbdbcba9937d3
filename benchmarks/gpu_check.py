"""Check in one call, of ten minutes at most, all that only a GPU can show: right numbers, speed, whole trainings.

    bash benchmarks/gpu_prepare.sh                                      what it needs beside the tree, into .carry
    python3 .carry/gpu_check.py --out OUT --carry .carry --seconds 545  on the machine with the GPU
    python3 benchmarks/gpu_check.py --small --out OUT                   without one: the script itself, on a processor

The parts (gpu_parts.py) run in the order of what they are worth. Each is a group of processes with a time limit of its
own, and after each results.json and results.md are written anew, so that whatever ends a part, or all of it, the rest
is there. Beside them OUT gets log.txt (what was printed), junit.xml (the tests), bench.json, profile.txt and two .zip
with the pictures of the trainings.

A part that does not fit into --seconds any more is reported as "no time"; `--done OUT/results.json` goes on with those
in another call. Nothing is installed, and nothing is downloaded if .carry holds MNIST.

--small runs on the real CuPy, with a processor in the GPU's place (tests/cpucupy).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # of .carry/ as of benchmarks/ itself
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_parts import PARTS, ROOT, NotHere, Wrong, last_line, printed_by

from tinygan.app import cli
from tinygan.errors import TinyganError, UsageError

PROCESSOR = ROOT / "tests" / "cpucupy" / "on_path"  # `import cupy` finds CuPy on a processor there
MARGIN = 3  # seconds that are kept for writing the last results
GOOD = ("ok", "not here", "no time")  # a status that is no reason to exit with 1


def main(argv: Sequence[str] | None = None) -> int:
    args = read_args(argv)
    if args.part:
        return run_part(args)
    path = [*([str(PROCESSOR)] if args.small else []), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "MPLBACKEND": "agg",
                   "PYTHONPATH": os.pathsep.join(path)}
    if args.small:
        if importlib.util.find_spec("cupy_backends") is None:
            raise TinyganError('--small needs CuPy, which runs on a processor here: pip install ".[test-cupy]"')
        environment["TINYGAN_CUPY"] = "cpu"
    if why := no_gpu(environment):
        raise TinyganError(f"no GPU to check: {why}" + "; --small tries this script without one" * (not args.small))
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the part under way is ended, too
    begun, results = time.monotonic(), dict(args.before)
    names = [name for name in args.only or PARTS if results.get(name, {}).get("status") != "ok"]
    with open(args.out / "log.txt", "a", encoding="utf-8") as log:
        for name in names:
            left = args.seconds - MARGIN - (time.monotonic() - begun)
            if left < PARTS[name].least:
                results[name] = {"status": "no time", "found": {}}
            else:
                limit = left if args.small else min(PARTS[name].limit, left)  # a processor may have other work
                results[name] = in_a_group(name, limit, args, environment, log)
            write(args.out, results)
            found = json.dumps(results[name]["found"], ensure_ascii=False)
            print(f"{name}: {results[name]['status']}, {results[name].get('seconds', 0)} s: {found[:900]}", flush=True)
    print(f"took {time.monotonic() - begun:.0f} s; {args.out / 'results.md'} has it all")
    if any(results[name]["status"] == "no time" for name in names):
        print(f"what had no time: the same command with --done {args.out / 'results.json'}")
    return int(any(results[name]["status"] not in GOOD for name in names))


def no_gpu(environment: dict[str, str]) -> str:
    """Return why there is no GPU, or nothing. Tried in another process: in this one its memory would stay in use."""
    code = "from tinygan.app.device import find_gpu; cupy, line = find_gpu(); print('' if cupy else line)"
    try:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                              timeout=100)
    except subprocess.TimeoutExpired:
        return "it does not answer within 100 seconds"
    return done.stdout.strip() or (last_line(done.stderr) if done.returncode else "")


def in_a_group(name: str, limit: float, args: argparse.Namespace, environment: dict[str, str], log: Any) -> dict:
    """Run one part in processes of its own, which are ended together when its time is over; its result."""
    started, peak, over = time.monotonic(), [0], threading.Event()
    log.write(f"\n===== {name}, at most {limit:.0f} s\n")
    log.flush()
    with tempfile.TemporaryDirectory() as scratch:
        into = Path(scratch) / "result.json"
        words = [sys.executable, __file__, "--part", name, "--scratch", scratch, "--out", str(args.out), "--carry",
                 str(args.carry), *(["--small"] if args.small else [])]
        watcher = threading.Thread(target=watch_memory, args=(over, peak), daemon=True)
        watcher.start()
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        status = "died"
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:  # after Ctrl-C, too; and a part that is done may have left a process behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            over.set()
        watcher.join(10)
        result = json.loads(into.read_text("utf-8")) if into.exists() else {"status": status, "found": {}}
    return result | {"seconds": round(time.monotonic() - started, 1), "peak MB": peak[0] or None}


def run_part(args: argparse.Namespace) -> int:
    """Run the part in this process, and write its results."""
    try:
        result = {"status": "ok", "found": PARTS[args.part].run(args)}
    except Wrong as problem:
        result = {"status": "wrong", "found": problem.args[0]}
    except NotHere as problem:
        result = {"status": "not here", "found": {"reason": str(problem)}}
    except Exception as problem:  # whatever it is, it is a result, and the next part must run
        traceback.print_exc()
        result = {"status": "failed", "found": {"error": f"{type(problem).__name__}: {problem}"[:600]}}
    into = args.scratch / "result.json"
    into.with_suffix(".new").write_text(json.dumps(result, default=str), encoding="utf-8")
    into.with_suffix(".new").replace(into)
    return 0


def watch_memory(over: threading.Event, peak: list[int]) -> None:
    """Note the most memory that is in use on a GPU, in MB, read every half second."""
    while not over.wait(0.5):
        text = printed_by("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
        peak[0] = max(peak[0], *map(int, re.findall(r"^\d+", text, re.MULTILINE) or [0]))


def write(out: Path, results: dict[str, dict]) -> None:
    """Write results.json and results.md, whole or not at all."""
    text = "| part | what it shows | status | s | peak MB |\n|---|---|---|---|---|\n"
    for name, result in results.items():
        text += (f"| {name} | {PARTS[name].run.__doc__} | {result['status']} | {result.get('seconds') or ''} | "
                 f"{result.get('peak MB') or ''} |\n")
    for name, result in results.items():
        text += f"\n## {name}: {result['status']}\n\n"
        text += "".join(f"- {key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n"
                        for key, value in result["found"].items())
    for name, content in (("results.json", json.dumps(results, indent=1)), ("results.md", text)):
        (out / f"{name}.new").write_text(content, encoding="utf-8")
        (out / f"{name}.new").replace(out / name)


# ---- flags -------------------------------------------------------------------------------------------------------


def read_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the flags; `before`: the results of --done."""
    p = cli.Parser(description=__doc__.split("\n\n")[0])
    p.add_argument("-o", "--out", type=cli.path, help="folder for the results [default: $OUT, else runs/gpu-check]")
    p.add_argument("--carry", type=cli.path, help="what gpu_prepare.sh made [default: .carry in the project]")
    p.add_argument("--seconds", type=cli.positive_float, default=545.0, help="for all parts together")
    p.add_argument("--only", type=cli.some_of(PARTS, "part "), help=f"some of {','.join(PARTS)}")
    p.add_argument("--done", type=cli.path, metavar="FILE", help="a results.json: leave out what is ok there")
    p.add_argument("--small", action="store_true", help="try the script itself, on a processor in the GPU's place")
    p.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # these two: for the part's own process
    p.add_argument("--scratch", type=cli.path, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    args.out = (args.out or Path(os.environ.get("OUT") or ROOT / "runs" / "gpu-check")).absolute()
    args.carry, args.before = (args.carry or ROOT / ".carry").absolute(), {}
    if args.part and args.scratch is None:
        raise UsageError("--part is for this script's own use: take --only")
    if args.done is not None:
        args.before = read_results(args.done)
    return args


def read_results(path: Path) -> dict[str, dict]:
    """Read what an earlier call measured, by part. Raises TinyganError if the file is not one of ours."""
    try:
        results = json.loads(path.read_text("utf-8"))
        if not all(name in PARTS and isinstance(result["status"], str) and isinstance(result["found"], dict)
                   for name, result in results.items()):
            raise ValueError("its parts are others")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise TinyganError(f"{path} is not a results.json of this script ({problem})") from None
    return results


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
