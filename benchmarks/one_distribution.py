"""Whether one model is one distribution, whatever engine or server runs it.

    python benchmarks/one_distribution.py [OUT.jsonl] NAME=SPEC ... [--problems 200] [--budget 16]
    python benchmarks/one_distribution.py [OUT.jsonl]

Runs best-of-n and the particle filter on the same held-out problems of Countdown with every backend,
all of them running the embedded reasoner, judged by the embedded process reward model. The first
backend is the reference. Rows are kept in OUT.jsonl, so an interrupted run goes on, backends can be
added one by one (servers need not run at the same time), and without backends the table of what is
there is printed; without OUT.jsonl (runs/one_distribution.jsonl) and backends, `embedded` and the same
folder as `hf:` are run. For instance:

    embedded=embedded
    gguf=gguf:runs/reasoner-f32.gguf
    vllm='openai:embedded@http://127.0.0.1:8000/v1#boundary=%0A'

Backends draw different samples, so answers differ as those of two seeds do. If the law is the same,
"only here" and "only reference" differ by chance (exact McNemar, Holm-corrected over the table).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from itscale.bench import Row, RowKey, Sweep, holm, paired_difference, run_sweep, wilson_interval
from itscale.embedded import REASONER
from itscale.methods import BestOfN, ParticleFilter
from itscale.registry import load_model, load_scorer
from itscale.tasks import Countdown

METHODS = (BestOfN(), ParticleFilter())
DEFAULT = Path("runs/one_distribution.jsonl")


async def measure(out: Path, name: str, spec: str, problems: int, budget: int) -> None:
    """Run what is not in `out` yet."""
    sweep = Sweep(Countdown(), METHODS, (budget,), problems, 4, model=name, scorer="embedded")
    known = {(row["model"], row["method"], row["problem"], row["budget"]) for row in read(out)}
    done: list[RowKey] = [
        sweep.key(problem, cell)
        for problem in sweep.problems
        for cell in sweep.cells
        if (name, cell.method.name, problem.id, cell.budget) in known
    ]
    model, scorer = load_model(spec), load_scorer("embedded")
    assert scorer is not None
    with out.open("a") as file:

        def keep(row: Row) -> None:
            if row.error is not None:
                raise SystemExit(f"{name}, {row.problem}: {row.error}")
            kept = {"model": name, "method": row.method, "problem": row.problem, "budget": row.budget}
            kept |= {"correct": row.correct, "generated_tokens": row.usage.generated_tokens}
            file.write(json.dumps(kept) + "\n")
            file.flush()

        await run_sweep(sweep, model, scorer, on_row=keep, done=done)
    await model.close()
    await scorer.close()


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(rows: list[dict]) -> list[str]:
    """A line for each backend and method, compared with the first backend."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    of = {
        (method, name): {
            r["problem"]: r["correct"] for r in rows if (r["method"], r["model"]) == (method, name)
        }
        for method in methods
        for name in names
    }
    pairs = [(method, name) for method in methods for name in names[1:]]
    compared = {pair: paired_difference(of[pair], of[pair[0], names[0]]) for pair in pairs}
    corrected = dict(zip(pairs, holm([compared[pair].p_value for pair in pairs]), strict=True))
    lines = [
        f"| method | backend | right | 95 % interval | only here | only {names[0]} | p (Holm) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for method in methods:
        for name in names:
            right, n = sum(of[method, name].values()), len(of[method, name])
            low, high = wilson_interval(right, n)
            line = f"| {method} | {name} | {right / n:.1%} of {n} | {low:.1%} to {high:.1%} |"
            if name == names[0]:
                lines.append(f"{line} | | |")
                continue
            pair = compared[method, name]
            p = corrected[method, name]
            lines.append(f"{line} {pair.only_first} | {pair.only_second} | {p:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("backends", nargs="*", metavar="NAME=SPEC")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--budget", type=int, default=16)
    options = parser.parse_args()
    if options.out is None:
        options.out, options.backends = DEFAULT, ["embedded=embedded", f"hf=hf:{REASONER}"]
        DEFAULT.parent.mkdir(exist_ok=True)
    for backend in options.backends:
        name, _, spec = backend.partition("=")
        asyncio.run(measure(options.out, name, spec, options.problems, options.budget))
    print("\n".join(table(read(options.out))))


if __name__ == "__main__":
    main()
