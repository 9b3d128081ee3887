"""A sweep against a server on a bad day: `python -m benchmarks.client_faults`.

A stub answers 5 % of generating requests with 500 and 5 % with 429 and Retry-After, cuts 5 % in the middle,
holds 5 % for half a second, and 1 % for longer than the client's time limit; on a worse day it refuses 85 %.
A method that samples whole answers and one that goes step by step run on many problems each. Every problem
must end in an answer or in a typed error (anything else ends this script), in time.

Spend: the stub bills a token when it writes it out, a prompt with its first token, and a request when it has
read it. The accounts of all runs must add up to the same number of generated tokens and of requests, to the
unit. With streamed answers that includes every token of a stream that was cut. Two things no client can know,
so they are not billed: what a server made of an answer it cut before writing any of it, and what it makes of
a prompt while it stalls. Prompt tokens are therefore shown and not held against each other: accounts have
more of them, those of last attempts that ended without a word, whose prompt may have been read.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace

from benchmarks.client.stub import Faults, bill, misbehave, stub
from itscale.bench import Row, Sweep, run_sweep
from itscale.models.openai.address import Address
from itscale.models.openai.client import Endpoint
from itscale.models.openai.model import OpenAIModel
from itscale.registry import parse_method
from itscale.scorers.fake import FakeProcessScorer
from itscale.tasks import Countdown

__all__ = ["BAD", "WORSE", "Outcome", "faulted"]

BAD = Faults(errors=0.1, cuts=0.05, spikes=0.05, stalls=0.01, latency_s=0.005)
WORSE = replace(BAD, errors=0.85)
TIME_LIMIT_S = 2.0
"""Of one attempt: more than a spike, less than a stall."""
PATIENCE_S = 280.0
"""Of a whole sweep; more than that is a hang."""


@dataclass(frozen=True)
class Outcome:
    """How one sweep went, on both sides of the wire."""

    rows: tuple[Row, ...]
    bill: dict[str, int]
    seconds: float

    @property
    def errors(self) -> Counter[str]:
        """The kinds of error that problems failed with."""
        return Counter(row.error.partition(":")[0] for row in self.rows if row.error)

    def spent(self, what: str) -> int:
        """The sum of a counter over all accounts."""
        return sum(getattr(row.usage, what) for row in self.rows)

    @property
    def requests(self) -> int:
        """Attempts that the accounts have."""
        return self.spent("model_calls") + self.spent("retries")


async def faulted(
    url: str,
    method: str,
    faults: Faults,
    *,
    problems: int,
    budget: int,
    time_limit_s: float = TIME_LIMIT_S,
    waited: float = 1.0,
) -> Outcome:
    """One sweep of a method. Nothing is shared between runs, so that each account is its own.

    `waited` is the share of the time between attempts that really passes.
    """
    misbehave(url, Faults(streams=faults.streams))
    address = Address("stub", url, boundary="\n", timeout_s=time_limit_s)
    model = await OpenAIModel.connect(Endpoint(address, sleep=lambda s: asyncio.sleep(waited * s)))
    misbehave(url, faults)
    scorer = FakeProcessScorer(lambda texts: 0.2 + 0.6 * (zlib.crc32("".join(texts).encode()) % 997) / 997)
    sweep = Sweep(Countdown(), (parse_method(method),), (budget,), problems, 4)
    rows: list[Row] = []
    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        await run_sweep(sweep, model, scorer, on_row=rows.append, share=False)
    seconds = time.perf_counter() - began
    await model.close()
    assert len(rows) == problems
    return Outcome(tuple(rows), bill(url), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    options = parser.parse_args()
    print("| server | method | N | problems | answered | typed errors | failed calls | retries | seconds |")
    print("|---|---|---:|---:|---:|---|---:|---:|---:|")
    spend = []
    wrong = False
    cases = [("bad", BAD, 8), ("bad, in one piece", replace(BAD, streams=False), 8), ("worse", WORSE, 2)]
    with stub() as url:
        for name, faults, budget in cases:
            for method in ("best-of-n", "particle-filter"):
                problems = options.problems if budget == 8 else max(1, options.problems // 4)
                out = asyncio.run(faulted(url, method, faults, problems=problems, budget=budget))
                errors = ", ".join(f"{n} {kind}" for kind, n in out.errors.items()) or "none"
                answered = problems - out.errors.total()
                row = f"| {name} | {method} | {budget} | {problems} | {answered} | {errors} |"
                row += f" {out.spent('failed_calls')} | {out.spent('retries'):,} | {out.seconds:.0f} |"
                print(row, flush=True)
                told = [out.spent("generated_tokens"), out.bill["generated_tokens"]]
                told += [out.requests, out.bill["requests"]]
                told += [out.spent("prompt_tokens"), out.bill["prompt_tokens"]]
                wrong = wrong or told[0] != told[1] or told[2] != told[3]
                faults_made = "/".join(str(out.bill[k]) for k in ("errors", "cuts", "spikes", "stalls"))
                spend.append(f"| {name} | {method} | {faults_made} | {' | '.join(f'{n:,}' for n in told)} |")
    print("\n| server | method | errors/cuts/spikes/stalls | tokens, accounts | tokens, bill", end=" ")
    print("| requests, accounts | requests, bill | prompt tokens, accounts | prompt tokens, bill |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    print("\n".join(spend))
    if wrong:
        raise SystemExit("the accounts and the bill differ")


if __name__ == "__main__":
    main()
