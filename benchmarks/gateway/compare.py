"""Gateways in front of the same model server: what each adds, and how much each carries.

    python benchmarks/gateway/compare.py [--its-hub PYTHON] [--optillm PROGRAM] [--seconds 5]

Starts the stub (50 ms an answer; one that honours `n`, one that ignores it), this gateway before each and,
where their programs are named, its_hub 1.2.0 and OptiLLM 0.4.0 in environments of their own; then drives
them in turns, several rounds, and prints medians over rounds. Everything shares this machine, load
generator included: read the ratios, not the milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from load import Load, run_load

HERE = Path(__file__).parent
MESSAGES = [{"role": "user", "content": "6*7?"}]
STUB, STUB_200, OURS, HUB, OPTILLM, OURS_200, OURS_TWO, STUB_NO_N, OURS_NO_N, OURS_TWO_NO_N = range(
    18_100, 18_110
)


@contextmanager
def running(command: list[str], url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from when it answers at `url` until it is ended."""
    env = {**os.environ, **environment}
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(  # noqa: S603  commands of this script alone
            command, cwd=empty, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    httpx.get(url, timeout=5)
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{command[0]} did not start") from None
                    time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            process.wait(30)


def chat(port: int) -> str:
    """The route everybody has."""
    return f"http://127.0.0.1:{port}/v1/chat/completions"


def cpu_s(process: subprocess.Popen[bytes] | None) -> float:
    """CPU seconds a process and those it started have used so far, all their threads."""
    if process is None:
        return 0.0
    ticks, pids = 0, [process.pid]
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return ticks / os.sysconf("SC_CLK_TCK")


PROCESSES: dict[str, subprocess.Popen[bytes]] = {}
"""Who to ask how much CPU time it took: a figure that other work on the machine moves little."""


def measure(
    targets: dict[str, Callable[[float], Any]], seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Each target in turn, several times; medians over the rounds."""
    runs: dict[str, list[Load]] = {name: [] for name in targets}
    used = dict.fromkeys(targets, 0.0)
    for target in targets.values():
        asyncio.run(target(1.0))  # connections, probes, caches
    for _ in range(rounds):
        for name, target in targets.items():
            process = PROCESSES.get(name.partition(" (")[0])
            before = cpu_s(process)
            runs[name].append(asyncio.run(target(seconds)))
            used[name] += cpu_s(process) - before
    told = {}
    for name, loads in runs.items():
        statuses: dict[str, int] = {}
        for load in loads:
            for status, count in load.statuses.items():
                statuses[status] = statuses.get(status, 0) + count
        told[name] = {
            "p50": statistics.median(load.p50_ms for load in loads),
            "p95": statistics.median(load.quantile_ms(0.95) for load in loads),
            "rate": statistics.median(load.rate for load in loads),
            "cpu": 1000 * used[name] / max(1, sum(len(load.took) for load in loads)),
            "wrong": sum(count for status, count in statuses.items() if status != "200"),
        }
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--its-hub", help="its-iaas of its_hub 1.2.0")
    parser.add_argument("--optillm", help="optillm 0.4.0")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    python = sys.executable
    with ExitStack() as stack:

        def start(command: list[str], url: str, name: str = "", **environment: str) -> None:
            PROCESSES[name] = stack.enter_context(running(command, url, **environment))

        start([python, str(HERE / "stub.py"), str(STUB), "50"], f"http://127.0.0.1:{STUB}/stats")
        start([python, str(HERE / "stub.py"), str(STUB_200), "200"], f"http://127.0.0.1:{STUB_200}/stats")
        start(
            [python, str(HERE / "stub.py"), str(STUB_NO_N), "50", "--no-n"],
            f"http://127.0.0.1:{STUB_NO_N}/stats",
        )
        for port, upstream, workers in (
            *((OURS, STUB, 1), (OURS_200, STUB_200, 1), (OURS_TWO, STUB, 2)),
            *((OURS_NO_N, STUB_NO_N, 1), (OURS_TWO_NO_N, STUB_NO_N, 2)),
        ):
            command = [python, str(HERE / "served.py"), str(port), str(upstream), str(workers)]
            start(command, f"http://127.0.0.1:{port}/health", f"itscale {port}")
        if options.its_hub:
            start([options.its_hub, "--port", str(HUB)], f"http://127.0.0.1:{HUB}/v1/models", "its_hub")
            configure_hub()
        if options.optillm:
            base = f"http://127.0.0.1:{STUB}/v1"
            command = [options.optillm, "--base-url", base, "--host", "127.0.0.1", "--port", str(OPTILLM)]
            start(
                [*command, "--log", "warning"],
                f"http://127.0.0.1:{OPTILLM}/health",
                "OptiLLM",
                OPENAI_API_KEY="dummy",
            )
        PROCESSES["itscale"] = PROCESSES[f"itscale {OURS}"]
        PROCESSES["itscale, two workers"] = PROCESSES[f"itscale {OURS_TWO}"]
        PROCESSES["n ignored"] = PROCESSES[f"itscale {OURS_NO_N}"]
        PROCESSES["n ignored, two workers"] = PROCESSES[f"itscale {OURS_TWO_NO_N}"]
        passing(options)
        fanning(options)


def configure_hub() -> None:
    """Its one algorithm, with one sample: as near to passing a request on as it comes."""
    said = {
        "provider": "openai",
        "endpoint": f"http://127.0.0.1:{STUB}/v1",
        "api_key": "dummy",
        "model": "stub",
        "alg": "self-consistency",
        "regex_patterns": [r"Answer: (\d+)"],
        "budget": 1,
    }
    httpx.post(f"http://127.0.0.1:{HUB}/configure", json=said, timeout=30).raise_for_status()


def passing(options: argparse.Namespace) -> None:
    """One request, one upstream call."""
    plain = {"model": "stub", "messages": MESSAGES}
    for clients in (1, 16, 64):

        def at(url: str, body: dict[str, Any], clients: int = clients) -> Callable[[float], Any]:
            return lambda seconds: run_load(url, body, clients, seconds)

        targets = {"direct": at(chat(STUB), plain), "itscale": at(chat(OURS), plain)}
        targets["itscale, two workers"] = at(chat(OURS_TWO), plain)
        if options.its_hub:
            targets["its_hub"] = at(chat(HUB), {**plain, "budget": 1})
        if options.optillm:
            targets["OptiLLM"] = at(chat(OPTILLM), {**plain, "model": "none-stub"})
        show(f"pass-through, {clients} clients", measure(targets, options.seconds, options.rounds))


def fanning(options: argparse.Namespace) -> None:
    """Eight samples a request."""
    for latency, stub, ours in ((50, STUB, OURS), (200, STUB_200, OURS_200)):
        PROCESSES["itscale"] = PROCESSES[f"itscale {ours}"]
        for clients in (1, 4, 32):
            sampled = {"model": "stub", "messages": MESSAGES, "temperature": 1.0}

            def direct(seconds: float, clients: int = clients, stub: int = stub) -> Any:
                return run_load(chat(stub), sampled, clients, seconds, fan_out=8)  # noqa: B023

            best = {**sampled, "model": "best-of-n:n=8/stub"}

            def gateway(
                seconds: float, clients: int = clients, ours: int = ours, best: dict[str, Any] = best
            ) -> Any:
                return run_load(chat(ours), best, clients, seconds)

            targets: dict[str, Callable[[float], Any]] = {"direct fan-out": direct, "itscale": gateway}
            if stub == STUB:
                targets["direct, one request of n=8"] = partial(
                    run_load, chat(stub), {**sampled, "n": 8}, clients
                )
                targets["itscale, two workers"] = partial(run_load, chat(OURS_TWO), best, clients)
                targets["n ignored"] = partial(run_load, chat(OURS_NO_N), best, clients)
                targets["n ignored, two workers"] = partial(run_load, chat(OURS_TWO_NO_N), best, clients)
            if options.its_hub and stub == STUB:
                votes = {"model": "stub", "messages": MESSAGES, "budget": 8}

                def hub(seconds: float, clients: int = clients, votes: dict[str, Any] = votes) -> Any:
                    return run_load(chat(HUB), votes, clients, seconds)

                targets["its_hub (vote of 8)"] = hub
            show(
                f"best of 8, {latency} ms upstream, {clients} clients",
                measure(targets, options.seconds, options.rounds),
            )


def show(title: str, told: dict[str, dict[str, float]]) -> None:
    """One table, in Markdown."""
    first = next(iter(told.values()))
    print(f"\n{title}\n")
    print("| | p50 ms | p50 over direct ms | p95 ms | requests/s | its CPU ms a request | not 200 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, row in told.items():
        over = row["p50"] - first["p50"]
        print(
            f"| {name} | {row['p50']:.1f} | {over:+.1f} | {row['p95']:.1f} | {row['rate']:,.0f} "
            f"| {row['cpu']:.2f} | {row['wrong']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
