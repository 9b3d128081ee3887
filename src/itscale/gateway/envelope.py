"""Answers in OpenAI's form, with an `itscale` block that says how they came about.

Usage is what was spent, to the token: `completion_tokens` holds every candidate's tokens, and those
not shown are `completion_tokens_details.reasoning_tokens`, as with a model that thinks unseen.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

from itscale.budget import Usage
from itscale.gateway.running import Job
from itscale.methods.base import Result
from itscale.scorers.answers import tally
from itscale.types import Candidate, End, Path
from itscale.version import __version__

__all__ = ["Envelope", "block", "confidence", "finish_of", "tool_calls_of", "usage_of"]

FINGERPRINT = f"itscale-{__version__}"


class Envelope:
    """What all pieces of one answer have in common."""

    def __init__(self, prefix: str, kind: str, model: str) -> None:
        self.id = f"{prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.kind = kind
        self.model = model

    def of(self, **fields: Any) -> dict[str, Any]:
        """An object of the answer's kind."""
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            **fields,
        }

    async def chat(self, job: Job, results: Sequence[Result]) -> dict[str, Any]:
        """The whole answer to a chat request."""
        choices = [
            {
                "index": i,
                "message": _message(result.candidates[result.chosen].path),
                "logprobs": None,
                "finish_reason": finish_of(result),
            }
            for i, result in enumerate(results)
        ]
        return self.of(choices=choices, usage=usage_of(results), itscale=await block(job, results))

    async def completion(self, job: Job, results: Sequence[Result]) -> dict[str, Any]:
        """The whole answer to a completion request."""
        choices = [
            {"index": i, "text": result.text, "logprobs": None, "finish_reason": finish_of(result)}
            for i, result in enumerate(results)
        ]
        return self.of(choices=choices, usage=usage_of(results), itscale=await block(job, results))


def _message(path: Path) -> dict[str, Any]:
    calls = tool_calls_of(path)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": path.text if path.text or not calls else None,
        "refusal": None,
    }
    reasoning = "".join(step.reasoning for step in path.steps if step.reasoning)
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def tool_calls_of(path: Path) -> list[dict[str, Any]]:
    """The tool calls of an answer, each with an id."""
    return [
        {**call, "id": call.get("id") or f"call_{secrets.token_hex(12)}", "type": "function"}
        for call in path.tool_calls
    ]


def finish_of(result: Result) -> str:
    """OpenAI's word for why the chosen answer ended; an unfinished one never says `stop`."""
    path = result.candidates[result.chosen].path
    if path.step is not None and path.step.finish:
        return path.step.finish
    if path.step is not None and path.step.end in (End.EOS, End.STOP):
        return "tool_calls" if path.tool_calls else "stop"
    return "length"


def usage_of(results: Sequence[Result]) -> dict[str, Any]:
    """The usage of all choices together."""
    prompt = sum(r.usage.prompt_tokens for r in results)
    generated = sum(r.usage.generated_tokens for r in results)
    shown = sum(r.candidates[r.chosen].path.n_tokens for r in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": sum(r.usage.cached_tokens for r in results)},
        "completion_tokens_details": {"reasoning_tokens": max(0, generated - shown)},
    }


async def block(job: Job, results: Sequence[Result]) -> dict[str, Any]:
    """How the answer came about; the top level speaks of the first choice."""
    first = results[0]
    said: dict[str, Any] = {
        "method": job.method.name,
        "model": job.plan.model,
        "scorer": job.plan.scorer,
        "temperature": job.method.temperature,
        "generations": job.plan.budget.generations if job.method.scales else 1,
        **await _about(job, first),
        "spend": _spend([r.usage for r in results]),
    }
    if len(results) > 1:
        said["choices"] = [await _about(job, result) for result in results]
    return said


async def _about(job: Job, result: Result) -> dict[str, Any]:
    chosen = result.candidates[result.chosen]
    about: dict[str, Any] = {
        "seed": result.seed,
        "stop_reason": result.stop_reason.value,
        "answer": result.answer,
        **({} if result.degraded is None else {"degraded": result.degraded}),
        "confidence": await confidence(result),
        "score": chosen.score,
        "ess": result.ess,
        "log_evidence": result.log_evidence,
    }
    options = job.plan.options
    # The gateway's word for how many there were, or all of them.
    listed = [_candidate(c) for c in result.candidates] if options.candidates else len(result.candidates)
    about["candidates"] = listed
    if options.trace:
        about["trace"] = result.trace.to_json()
    return about


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return dict(candidate.to_json())


async def confidence(result: Result) -> float | None:
    """The chosen answer's share of the vote, by weight where the method gives weights; None without
    an answer to vote on. A slow comparison (of mathematics) does not hold up other requests."""
    if result.answer is None or len(result.candidates) < 2:
        return None
    weights = [c.weight for c in result.candidates]
    known = [w for w in weights if w is not None]
    weighed = len(known) == len(weights)
    told = [c.answer for c in result.candidates], known if weighed else None
    kind = result.answer_kind
    if kind.same is None:
        clusters = tally(*told, kind=kind)
    else:
        clusters = await asyncio.to_thread(tally, *told, kind=kind)
    total = sum(known) if weighed else float(len(result.candidates))
    mine = next((c.votes for c in clusters if result.chosen in c.members), 0.0)
    return round(mine / total, 6) if total else None


def _spend(usages: Sequence[Usage]) -> dict[str, Any]:
    """By phase."""

    def total(name: str) -> Any:
        return sum(getattr(usage, name) for usage in usages)

    generation = ("prompt_tokens", "cached_tokens", "generated_tokens", "discarded_tokens", "retries")
    return {
        "generation": {"calls": total("model_calls"), **{name: total(name) for name in generation}},
        "scoring": {"calls": total("scorer_calls"), "tokens": total("scorer_tokens")},
        "failed_calls": total("failed_calls"),
        "seconds": round(max(usage.seconds for usage in usages), 6),
        "dollars": total("dollars"),
    }
