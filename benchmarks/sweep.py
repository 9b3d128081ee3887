"""The harness itself: how busy a sweep keeps the model, how large its report is, how fast that opens.

    python benchmarks/sweep.py [--problems 200] [--out DIR]

The sweep is 4 methods x 4 budgets x 200 problems of Countdown on the embedded models, run by the command
line as anybody would. It says, all of one run:

1. *busy*: the share of the sweep's wall time in which the model's engine thread was inside a turn
   (admitting, computing, drawing), the same for the scorer's, as the run's manifest has them; and of all
   processor time that the command used after loading, the share used on those two threads' turns, which
   a busy neighbour on the machine does not change;
2. the size of the report, and how many traces it holds;
3. how long headless Chromium takes to open it: `performance.timing` from the start of navigation to the
   end of the load event, by which everything is drawn; the median of several. Needs Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from itscale import cli
from itscale.bench.store import read_run
from itscale.models.engine.request import Worker

METHODS = ("majority", "best-of-n", "beam", "particle-filter")
BUDGETS = (1, 4, 16, 64)
OPENINGS = 7
TIMING = """<script>addEventListener("load", () => setTimeout(() => {
  const t = performance.timing, body = document.body;
  const ends = [t.domInteractive, t.domContentLoadedEventEnd, t.loadEventEnd];
  body.dataset.ms = ends.map((x) => x - t.navigationStart);
}, 0))</script>"""


class Threads:
    """Processor seconds of the engines' threads, turn by turn, and of the whole process since the first."""

    def __init__(self) -> None:
        self.inside = self.before_first = 0.0
        inner = Worker.__init__

        def watched(worker: Worker, name: str, turn: Any, *rest: Any) -> None:
            inner(worker, name, lambda new: self._timed(turn, new), *rest)

        Worker.__init__ = watched  # type: ignore[assignment]

    def _timed(self, turn: Any, new: list[Any]) -> bool:
        self.before_first = self.before_first or time.process_time()
        began = time.thread_time()
        try:
            return bool(turn(new))
        finally:
            self.inside += time.thread_time() - began

    @property
    def share(self) -> float:
        """Of the processor time since the first turn."""
        return self.inside / (time.process_time() - self.before_first)


def sweep(folder: Path, problems: int) -> float:
    """Run the command in this process; the share of its processor time in the engines."""
    threads = Threads()
    at_the_end: list[float] = []
    inner = asyncio.run

    def measured(main: Any, **options: Any) -> Any:
        try:
            return inner(main, **options)
        finally:
            at_the_end.append(threads.share)  # before the report, which is no part of the sweep

    asyncio.run = measured
    sys.argv[1:] = [
        "bench", "countdown", "--methods", ",".join(METHODS), "--budgets", ",".join(map(str, BUDGETS)),
        "--problems", str(problems), "--out", str(folder),
    ]  # fmt: skip
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        asyncio.run = inner
    return at_the_end[0]


def opening_ms(page: Path) -> list[list[int]] | None:
    """Milliseconds to interactive, to DOMContentLoaded and to loaded, each time; None without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        return None
    found = []
    with tempfile.TemporaryDirectory() as place:
        timed = Path(place) / "report.html"
        timed.write_text(
            page.read_text(encoding="utf-8").replace("</body>", TIMING + "</body>"), encoding="utf-8"
        )
        for i in range(OPENINGS):
            done = subprocess.run(  # noqa: S603  a browser found on the path, on a page of our own
                [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                 "--disable-background-networking", f"--user-data-dir={place}/profile{i}",
                 "--window-size=1280,900", "--dump-dom", timed.as_uri()],
                capture_output=True, text=True, timeout=120, check=True,
            )  # fmt: skip
            told = re.search(r'data-ms="([\d,]+)"', done.stdout)
            assert told is not None, "the page did not load"
            found.append([int(ms) for ms in told[1].split(",")])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument(
        "--out", type=Path, help="keep the run here, or look at the finished one that is there"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch) / "run"
        in_engines = None if (folder / "manifest.json").exists() else sweep(folder, options.problems)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        last, rows = manifest["starts"][-1], read_run(folder).rows
        print(f"\n| {len(rows):,} runs, {last['machine']['cpus']} CPUs | |\n|:---|---:|")
        print(f"| seconds of the sweep | {last['seconds']:,.0f} |")
        print(f"| model's engine busy, share of wall time | {last['model_busy']:.1%} |")
        print(f"| scorer's engine busy | {last['scorer_busy']:.1%} |")
        if in_engines is not None:
            print(f"| processor time used in the two engines | {in_engines:.1%} |")
        page = folder / "report.html"
        print(f"| report, MB | {page.stat().st_size / 1e6:.2f} |")
        opened = opening_ms(page)
        if opened is None:
            print("| report opens | no Chromium here |")
        else:
            interactive, content, loaded = (statistics.median(one) for one in zip(*opened, strict=True))
            print(f"| report opens: interactive, DOM ready, loaded and drawn, ms | "
                  f"{interactive:.0f}, {content:.0f}, {loaded:.0f} |")  # fmt: skip


if __name__ == "__main__":
    main()
