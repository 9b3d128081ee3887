"""Run what is missing of the comparison and rewrite its tables in docs/evidence.md and docs/performance.md.

    python -m benchmarks.peers [--accuracy | --speed] [--vllm PROGRAM | --server URL] [--problems 100]
        [--its-hub-python PATH] [--optillm-python PATH]

Peers without a Python given are installed into `.peers/` first. vLLM is that of `make test-servers` unless
one is named; of a server that runs already (it must serve the embedded reasoner as `embedded`) no connections
are counted. Finished cells are kept in runs/peers/cells.jsonl, so an interrupted run goes on; delete it to
measure anew.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers import running, served
from benchmarks.peers.pages import write
from benchmarks.peers.running import Cell, Measured
from benchmarks.peers.served import ROOT, Server
from itscale.bench.sweep import DEFAULT_CONCURRENCY

FOLDER = ROOT / "runs" / "peers"
CELLS = FOLDER / "cells.jsonl"
N = 16
BEAM = "beam:width=4"


def accuracy_cells(problems: int) -> list[Cell]:
    """Everybody's methods at one N."""
    ours = ["particle-filter", "particle-filter:compatibility=puri2025", "entropic-particle-filter", BEAM]
    ours += ["best-of-n", "majority"]
    hub = ["particle-filter", "entropic-particle-filter", "beam", "best-of-n", "majority"]
    cells = [Cell("itscale", method, N, problems) for method in ours]
    cells += [Cell("its_hub", method, N, problems) for method in hub]
    cells += [Cell("itscale", "majority", 5, problems)]
    cells += [Cell("OptiLLM", method, N, problems) for method in ("majority", "best-of-n")]
    return [*cells, Cell("OptiLLM", "self-consistency", 5, problems)]


def speed_cells() -> list[Cell]:
    """Filters on 50 problems, some at once, one by one, and as `itscale bench` does; votes; bare requests."""
    filters = [
        Cell(who, "particle-filter", n, 50, at_once)
        for n, at_once in ((16, 8), (64, 8), (16, 1))
        for who in ("itscale", "its_hub")
    ]
    filters += [Cell("itscale", "particle-filter", N, 50, DEFAULT_CONCURRENCY)]
    return [*filters, *(Cell(who, "majority", N, 50) for who in ("itscale", "its_hub", "bare"))]


def known() -> dict[Cell, Measured]:
    """What was measured so far."""
    if not CELLS.exists():
        return {}
    measured = [Measured.from_json(json.loads(line)) for line in CELLS.read_text().splitlines()]
    return {one.cell: one for one in measured}


def measure(cells: Sequence[Cell], options: argparse.Namespace) -> None:
    """Run the cells that are missing."""
    missing = [cell for cell in cells if cell not in known()]
    if not missing:
        return
    who = {cell.who for cell in missing}
    hub = served.environment("its_hub", options.its_hub_python) if "its_hub" in who else ""
    other = served.environment("optillm", options.optillm_python) if "OptiLLM" in who else ""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if options.server:
            server = Server(options.server)
        else:
            server = stack.enter_context(served.vllm(options.vllm, FOLDER))
        scorer = stack.enter_context(served.scorer(FOLDER))
        gateway = stack.enter_context(served.optillm(other, server.url, N, FOLDER)) if other else ""
        warm = Cell("itscale", "particle-filter", N, 4)
        running.ours(warm, server, scorer)
        for cell in missing:
            if cell.who == "itscale":
                one = running.ours(cell, server, scorer)
            elif cell.who == "its_hub":
                one = running.its_hub(cell, server, scorer, hub)
            elif cell.who == "bare":
                one = running.bare(cell, server)
            else:
                one = running.optillm(cell, server, gateway)
            with CELLS.open("a") as file:
                file.write(json.dumps(one.to_json()) + "\n")
            print(cell, sum(one.correct), one.failed, one.errors[:1], f"{one.seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--accuracy", action="store_true", help="only this part")
    parser.add_argument("--speed", action="store_true", help="only this part")
    home = Path(os.environ.get("ITSCALE_SERVERS", ROOT / ".servers"))
    parser.add_argument("--vllm", default=str(home / "vllm/bin/vllm"), help="the vllm program")
    parser.add_argument("--server", help="URL of a vLLM server that runs already, up to /v1")
    parser.add_argument("--its-hub-python")
    parser.add_argument("--optillm-python")
    parser.add_argument("--problems", type=int, default=100)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers started here end with it
    both = options.accuracy == options.speed
    accuracy, speed = accuracy_cells(options.problems), speed_cells()
    measure(
        [*(accuracy if both or options.accuracy else []), *(speed if both or options.speed else [])], options
    )
    measured = known()
    write([measured[c] for c in accuracy if c in measured], [measured[c] for c in speed if c in measured])


if __name__ == "__main__":
    main()
