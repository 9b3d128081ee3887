"""Run claims and rewrite their part of docs/evidence.md."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from benchmarks.claims.common import block, write_section

NOT_CLAIMS = {"__init__", "__main__", "choosing", "common", "runs"}


def main(names: list[str]) -> None:
    known = sorted({f.stem for f in Path(__file__).parent.glob("*.py")} - NOT_CLAIMS)
    wanted = [name.replace("-", "_") for name in names] or known
    for name in wanted:
        if name not in known:
            sys.exit(f"there is no claim {name!r}; known: {', '.join(known)}")
        script = importlib.import_module(f"benchmarks.claims.{name}")
        began = time.monotonic()
        findings = script.measure()
        text = block(script.CLAIM, findings)
        print(f"{text}\n\n({time.monotonic() - began:.0f} s)\n", flush=True)
        write_section([(script.CLAIM, text)])


if __name__ == "__main__":
    main(sys.argv[1:])
