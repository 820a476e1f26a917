"""``make bench``: medians of three interleaved runs, beside what they are judged by.

Everything runs on this machine, so only ratios within one run mean much.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench import bare, large, scrape, small
from bench.stage import make_files, origin, service, storage

RUNS = 3


def main() -> int:
    """Run what is asked for, print a table, keep the figures in bench/out."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", choices=["large", "small", "scrape"])
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="downloadd-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        files = folder / "files"
        files.mkdir(mode=0o755)
        say("making files")
        make_files(files)
        source = stack.enter_context(origin(files))
        if args.only in (None, "scrape"):
            figures |= time_scrapes(folder, source)
        if args.only in (None, "small"):
            figures |= count_small(folder, source, args.runs)
        if args.only in (None, "large"):
            figures |= compare_large(folder, source, args.runs)
    show(figures)
    out = Path("bench/out")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(figures, indent=2))
    return 0


def compare_large(folder: Path, source: str, runs: int) -> dict[str, float]:
    """Alternate the service and the shell pipeline against one storage."""
    ours: list[large.Result] = []
    shell: list[large.Result] = []
    for number in range(runs):
        base = folder / f"large-{number}"
        base.mkdir()
        with storage(base / "s3") as gateway:
            with service(base / "serve", source, gateway) as running:
                settle()
                ours.append(large.with_downloadd(running, source))
            say(f"large {number + 1}/{runs}: downloadd {ours[-1].wall:.2f} s")
            settle()
            shell.append(large.with_shell(base / "shell", source, gateway))
            say(f"large {number + 1}/{runs}: curl + zip + s5cmd {shell[-1].wall:.2f} s")
    return {
        "large.downloadd.wall_s": median(it.wall for it in ours),
        "large.downloadd.cpu_s": median(it.cpu for it in ours),
        "large.downloadd.peak_mib": median(it.peak_mib for it in ours),
        "large.shell.wall_s": median(it.wall for it in shell),
        "large.shell.cpu_s": median(it.cpu for it in shell),
        "large.ratio": median(a.wall / b.wall for a, b in zip(ours, shell, strict=True)),
    }


def count_small(folder: Path, source: str, runs: int) -> dict[str, float]:
    """Alternate S3 and local storage, the service and a bare script.

    Nothing is removed between the runs: ext4 passes over inodes that were just
    freed, one by one, whenever it makes a file in the seconds after.
    """
    rates: dict[str, list[float]] = {"s3": [], "bare_s3": [], "local": [], "bare_local": []}
    for number in range(runs):
        base = folder / f"small-{number}"
        base.mkdir()
        with (
            storage(base / "s3") as gateway,
            service(base / "on-s3", source, gateway, small.SETTINGS) as running,
        ):
            settle()
            rates["s3"].append(small.measure(running, source))
            rates["bare_s3"].append(bare.measure(source, base / "bare", gateway))
        with service(base / "on-local", source, None, small.SETTINGS) as running:
            settle()
            rates["local"].append(small.measure(running, source))
        rates["bare_local"].append(bare.measure(source, base / "bare", None))
        say(
            f"small {number + 1}/{runs}: "
            + ", ".join(f"{k} {v[-1]:.0f}/s" for k, v in rates.items())
        )
    return {f"small.{kind}.jobs_per_s": median(values) for kind, values in rates.items()}


def time_scrapes(folder: Path, source: str) -> dict[str, float]:
    """Ask a busy service for its metrics."""
    with service(folder / "scrape", source, None, scrape.SETTINGS) as running:
        median_ms, slow_ms = scrape.measure(running, source)
    say(f"scrape: median {median_ms:.1f} ms, 99th percentile {slow_ms:.1f} ms")
    return {"scrape.median_ms": median_ms, "scrape.p99_ms": slow_ms}


def settle() -> None:
    """Let the disk finish what the last run has left: an fsync waits behind all of it."""
    os.sync()


#: What is asked of each figure: at most (-) or at least (+).
GOALS = {
    "large.ratio": ("<=", 0.4),
    "large.downloadd.cpu_s": ("<=", 3.5),
    "large.downloadd.peak_mib": ("<=", 128.0),
    "scrape.median_ms": ("<=", 20.0),
    "small.s3.jobs_per_s": (">=", 250.0),
    "small.local.jobs_per_s": (">=", 600.0),
}


def show(figures: dict[str, float]) -> None:
    table = Table("figure", "median", "goal", "")
    for name, value in figures.items():
        sign, goal = GOALS.get(name, ("", None))
        met = goal is not None and (value <= goal if sign == "<=" else value >= goal)
        verdict = "" if goal is None else "met" if met else "MISSED"
        table.add_row(name, f"{value:.2f}", "" if goal is None else f"{sign} {goal:g}", verdict)
    Console().print(table)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
