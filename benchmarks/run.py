"""All measurements with one command; results go to RESULTS.md beside this file.

    python benchmarks/run.py [--only NAME] [--quick] [--threads N]

Every part prints its rows as they come and replaces its own section of RESULTS.md after each data set, with the
command, the machine and the versions it was run with; so nothing is lost if it is stopped. --quick takes small sizes
and writes nothing: it only shows that everything runs.
"""

import argparse
import importlib
import os
import platform
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from table import Table

PARTS = (
    "inference",
    "learning",
    "ahead",
    "bars",
    "surplus",
    "intervals",
    "components",
    "denoising",
    "inpainting",
    "scaling",
    "stored",
    "together",
    "rounding",
    "kills",
    "wide",
    "cases",
    "sentinels",
    "threads",
)
RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "# Results\n\nWritten by `make bench`; every section says how and where it was measured.\n"
VERSIONS = ("sparsentropy", "torch", "numpy", "scikit-learn", "scikit-image", "bm3d", "python-picard")


def main() -> None:
    options = arguments()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(options.threads)  # before anything is imported that makes threads
    import torch
    from threadpoolctl import threadpool_limits

    from rate import product_rate
    from workloads import NoDataError

    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        rate = product_rate()
        for name in PARTS if options.only is None else (options.only,):
            began = time.perf_counter()
            try:
                for tables in importlib.import_module(name).run(quick=options.quick):
                    if not options.quick:
                        keep(name, tables, stamp(options.threads, rate, time.perf_counter() - began))
            except NoDataError as problem:
                print(f"\n{name}: skipped, {problem}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="run one part")
    parser.add_argument("--quick", action="store_true", help="small sizes; write nothing")
    parser.add_argument("--threads", type=int, default=1, help="threads for every method alike (default 1)")
    return parser.parse_args()


def stamp(threads: int, rate: float, seconds: float) -> str:
    """How and where."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in VERSIONS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    command = " ".join(["python", "benchmarks/run.py", *sys.argv[1:]])
    place = f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return (
        f"`{command}` · {threads} thread{'s' * (threads > 1)} · {place} · float32 matrix product {rate:.0f} GFLOP/s · "
        f"{', '.join(found)}{commit()} · {date.today().isoformat()} · {seconds:.0f} s in all"
    )


def processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the source, with a star if tracked files were changed."""
    git = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty=*"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return f" (commit {answer.stdout.strip()})" if answer.returncode == 0 else ""


def keep(name: str, tables: list["Table"], how: str) -> None:
    """Replace the section of one part, and leave those of the others."""
    sections = {}
    if RESULTS.exists():
        parts = re.split(r"^## (\w+)\n", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        sections = dict(zip(parts[::2], parts[1::2], strict=True))
    sections[name] = "\n" + "\n\n".join([how, *(table.markdown() for table in tables)]) + "\n\n"
    body = "".join(f"## {part}\n{sections[part]}" for part in PARTS if part in sections)
    RESULTS.write_text(f"{HEADING}\n{body.rstrip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
