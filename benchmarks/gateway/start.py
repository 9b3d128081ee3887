"""From `itscale serve` without arguments to the first answer, as the `openai` SDK sees it.

    python benchmarks/gateway/start.py [--rounds 3]

Each round is a process of its own, on an empty page cache where this user may empty it.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import openai

QUESTION = "Make 45 from 3, 7, 12, 23."


def emptied() -> bool:
    """Whether the page cache could be emptied."""
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    return False


def first_answer() -> tuple[float, float]:
    """Seconds until the embedded model has answered, and until a method on it has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    command = [sys.executable, "-m", "itscale.cli", "serve", "--port", str(port)]
    began, told = time.monotonic(), []
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  this very package
    try:
        for model in ("embedded", "best-of-n:n=4/embedded"):
            while True:
                try:
                    client.chat.completions.create(
                        model=model, messages=[{"role": "user", "content": QUESTION}]
                    )
                    break
                except openai.APIConnectionError:
                    time.sleep(0.02)
            told.append(time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(30)
    return told[0], told[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for number in range(parser.parse_args().rounds):
        cold = emptied()
        plain, judged = first_answer()
        print(
            f"round {number}, page cache {'emptied' if cold else 'as it was'}: first answer after "
            f"{plain:.2f} s, a method's after {judged:.2f} s"
        )


if __name__ == "__main__":
    main()
