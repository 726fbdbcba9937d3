"""Run the study of mode collapse: does a generator with banks of filters keep modes that a plain one loses?

    python study.py list                        parts, arms, and how much is done
    python study.py run --quick                 20 jobs on the 25-grid, some minutes
    python study.py run --part A --only 1/8     every eighth job of part A: run the other shares elsewhere
    python study.py table                       tables, tests and figures from what is there

A job is one training and lies in study/PART.ARM.SEED. Stopped at any moment, it goes on with the same command. What is
asked, measured and found: docs/study.md.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import train_mnist
import train_photos
from tinygan import __version__
from tinygan.app import cli
from tinygan.app.run import Busy
from tinygan.app.streams import Progress
from tinygan.data.files import whole_file
from tinygan.errors import TinyganError, UsageError
from tinygan.study import jobs
from tinygan.study.figures import draw_all
from tinygan.study.plan import PARTS, Job, jobs_of, share_of
from tinygan.study.results import cells_found, collect, is_wanted, jobs_to_run, store
from tinygan.study.tables import arm_words, tables

QUICK = "A-quick"
PILOTS = len(jobs_of(["C-pilot"]))
SCRIPTS = {script.__name__: jobs.Script(script.main, script.build, script.train)
           for script in (train_mnist, train_photos)}


def main(argv: list[str] | None = None) -> int:
    """Do what the verb says; returns the exit code."""
    args = build_parser().parse_args(argv)
    return VERBS[args.verb](args)


def chosen(args: Namespace) -> list[Job]:
    """Return the jobs that the flags name."""
    if args.quick and args.part:
        raise UsageError("--quick is a part of its own: leave --part out")
    parts = [QUICK] if args.quick else args.part or [part for part in PARTS if part != QUICK]
    every = jobs_of(parts)
    arms = {job.arm for job in every}
    if unknown := set(args.arm or ()) - arms:
        raise UsageError(f"there is no arm {min(unknown)} in {', '.join(parts)}: use {', '.join(sorted(arms))}")
    shared = share_of([job for job in every if not args.arm or job.arm in args.arm], args.only)
    if "C-cells" not in parts:
        return shared
    results = collect(args.out, None)  # after the sharing: what each share is must not depend on what is done
    if args.verb == "run" and (missing := PILOTS - len(results.part("C-pilot"))):
        raise UsageError(f"--part C-cells takes the settings in which the GAN collapses, and {missing} jobs of C-pilot "
                         f"are missing in {args.out}: run them first")
    found = cells_found(results)
    return [job for job in shared if is_wanted(job, found)]


def list_jobs(args: Namespace) -> int:
    """Print for each part, or each arm of the parts named, how many jobs there are and done, and how long one takes."""
    by_arm = bool(args.part or args.quick)
    print(f"{'part':12}{'arm' if by_arm else '':54}{'done':>12}   a job takes")
    counts: dict[tuple[str, str], list[Path]] = {}
    for job in chosen(args):
        words = arm_words(job.arm) if by_arm else PARTS[job.part].title
        counts.setdefault((job.part, f"{job.arm:14}{words}" if by_arm else words), []).append(args.out / job.name)
    for (part, words), folders in counts.items():
        done = [folder for folder in folders if jobs.is_done(folder)]
        took = [where["seconds"] for folder in done if (where := jobs.where_of(folder))]
        time = f"{sum(took) / len(took):6.0f} s" if took else "      -"
        print(f"{part:12}{words:54}{len(done):5} of {len(folders):3}   {time}")
    done = sum(jobs.is_done(folder) for folders in counts.values() for folder in folders)
    print(f"{done:,} of {sum(map(len, counts.values())):,} jobs done in {args.out}")
    return 0


def run_jobs(args: Namespace) -> int:
    """Run the jobs that are not done, one after the other; returns 130 when interrupted, 1 where one failed."""
    if not (args.quick or args.part):
        raise UsageError("say which jobs: --part A (study.py list names the parts), or --quick")
    todo = [job for job in chosen(args) if not jobs.is_done(args.out / job.name)]
    photos = [job for job in todo if PARTS[job.part].program == "train_photos"]
    if photos and args.photos is None:
        raise UsageError(f"{photos[0].name} needs --photos: name the folder of the photos to learn from")
    extra = {"train_photos": [f"--{name}={value}" for name, value in (("photos", args.photos), ("vgg16", args.vgg16))
                              if value]}
    print(f"{len(todo):,} jobs to do in {args.out}")
    progress, run, failed = Progress(len(todo), every=1, word="job"), 0, 0
    for number, job in enumerate(todo):
        folder = args.out / job.name
        if jobs.is_done(folder):  # by another process, meanwhile
            continue
        try:
            if code := jobs.run_job(job, folder, SCRIPTS, extra):
                progress.close()
                print(f"stopped in {job.name}; the same command goes on with it")
                return code
            run += 1
        except Busy:
            progress.print_line(f"{job.name}: another process is at it")
        except (TinyganError, OSError) as error:  # the others may fare better
            failed += 1
            progress.print_line(f"{job.name}: {error}; where it cannot be mended, delete {folder}: the job then begins "
                                "anew")
        progress.update(number + 1)
    progress.close()
    print(f"{run:,} jobs run{f', {failed:,} failed' if failed else ''}: python study.py table --out {args.out}")
    return int(failed > 0)


def make_tables(args: Namespace) -> int:
    """Print the tables of what is done, and write them, the results they are made of and the figures."""
    if args.part or args.arm or args.quick:
        raise UsageError("table takes all results that are there: leave --part, --arm and --quick out")
    place = args.to or args.out
    results = collect(args.out, place)
    if not results.by_name:
        raise TinyganError(f"there is no result in {args.out}: python study.py run --quick makes some")
    text = tables(results)
    print(text)
    store(results, place)
    with whole_file(place / "tables.md") as file:
        file.write(text.encode())
    made = draw_all(results, args.out, place)
    missing = [job for job in jobs_to_run([part for part in PARTS if part != QUICK], results)
               if job.name not in results.by_name]
    print(f"{len(results.by_name):,} results; tables.md and {', '.join(made) or 'no figure'} in {place}; "
          f"{len(missing):,} planned jobs are missing" + (f", the next {missing[0].name}" if missing else ""))
    return 0


def share(text: str) -> tuple[int, int]:
    """Parse i/n, the i-th of n shares."""
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ArgumentTypeError(f"{text} is not a share such as 3/8, the third of eight")
    return int(match[1]), int(match[2])


VERBS = {"list": list_jobs, "run": run_jobs, "table": make_tables}


def build_parser() -> cli.Parser:
    """Define the flags of the script."""
    p = cli.Parser(description=__doc__.split("\n\n")[0], version=__version__)
    p.add_argument("verb", choices=tuple(VERBS), help="show what is done; run jobs; make tables and figures")
    p.add_argument("--part", action="append", help="a part, such as A or C-momentum; may be repeated")
    p.add_argument("--arm", action="append", help="an arm, such as sgan4; may be repeated [default: all of the part]")
    p.add_argument("--quick", action="store_true", help="four arms of five seeds on the 25-grid, 1,500 steps each")
    p.add_argument("--only", type=share, default=(1, 1), metavar="I/N", help="every N-th job, from the I-th on")
    p.add_argument("-o", "--out", type=cli.path, default=Path("study"), help="folder of the jobs")
    p.add_argument("--photos", type=cli.path, metavar="FOLDER", help="of part E: the pictures to learn from")
    p.add_argument("--vgg16", type=cli.path, metavar="FILE", help="of part E: a VGG16 in whose features photos are "
                   "compared [default: train_photos.py's stand-in]")
    p.add_argument("--to", type=cli.path, metavar="FOLDER", help="where `table` writes; results that are stored there "
                   "already are joined [default: the folder of the jobs]")
    return p


if __name__ == "__main__":
    sys.exit(cli.run_main(main, leaves_files=True))
