"""Answering: a plan, a prompt and the fields of a request become runs of a method.

Laws: temperature 0 asks for one reproducible answer, so a method that compares several samples
draws them at its own temperature from seed 0; choice i of n has a seed of its own; whoever waits
no longer cancels everything the runs have under way.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from itscale.budget import Ledger, Usage
from itscale.errors import OptionError
from itscale.events import Event
from itscale.gateway.faults import Fault, option_fault
from itscale.gateway.plain import Plain
from itscale.gateway.routing import Plan, within_limits
from itscale.gateway.runtime import Runtime, ServedModel
from itscale.gateway.schema import ChatMessage, MethodRequest
from itscale.methods.base import Method, Result
from itscale.models.base import Model
from itscale.models.openai.model import OpenAIModel
from itscale.randomness import derive
from itscale.scorers.base import Scorer
from itscale.types import Message, Prompt, StopReason, to_json

__all__ = ["Job", "chat_prompt", "prepare", "run_all"]

_SEEDS = 2**63


@dataclass(frozen=True)
class Job:
    """Everything that is decided before the first token."""

    plan: Plan
    prompt: Prompt
    method: Method
    model: Model
    scorer: Scorer | None
    seeds: tuple[int, ...]
    """One for each choice."""
    ends: float | None = None
    """When the request's time is over, by `time.monotonic()`; None: its seconds begin with each run."""
    spent: Callable[[Usage], None] | None = None
    """Told what each run has spent when it ends, however it ends."""

    async def run(self, choice: int, *observers: Callable[[Event], None]) -> Result:
        """Answer choice number `choice`.

        Raises:
            Fault: the deadline came before any answer.
            ItscaleError: as `Method.run` says.
        """
        budget = self.plan.budget
        if self.ends is not None:
            budget = replace(budget, seconds=max(0.001, self.ends - time.monotonic()))
        ledger = Ledger(budget, self.model.price, self.scorer.price if self.scorer else None)
        usage: Usage | None = None
        try:
            result = await self.method.run(
                self.prompt, self.model, self.scorer, None, self.seeds[choice], *observers, ledger=ledger
            )
            usage = result.usage
        finally:
            if self.spent is not None:
                self.spent(ledger.usage(kept_tokens=0) if usage is None else usage)
        if result.candidates[result.chosen].path.parent is None and result.stop_reason is StopReason.SECONDS:
            raise Fault(
                504,
                f"no answer within {self.plan.budget.seconds:g} s; allow more itscale.seconds",
                code="deadline_exceeded",
            )
        return result


def chat_prompt(messages: Sequence[ChatMessage], fields: dict[str, Any]) -> Prompt:
    """The prompt of a chat request, whole.

    Raises:
        Fault: a message that is none.
    """
    read = []
    for i, message in enumerate(messages):
        given = {k: v for k, v in message.model_dump(exclude_unset=True).items() if v is not None}
        content = given.get("content")
        if (
            isinstance(content, list)
            and all(set(p) == {"type", "text"} for p in content)
            and len(content) == 1
        ):
            given["content"] = content[0]["text"]  # one part of text is that text
        if "content" not in given and not given.get("tool_calls"):
            raise Fault(
                400,
                f"message {i} says nothing; give it content",
                param=f"messages.{i}.content",
                code="missing_required_parameter",
            )
        given.setdefault("content", None)
        try:
            read.append(Message.of(given))
        except ValueError as error:
            raise Fault(400, str(error), param=f"messages.{i}", code="invalid_value") from None
    return Prompt(messages=tuple(read), request=to_json(fields) if fields else None)


async def prepare(
    runtime: Runtime,
    served: ServedModel,
    plan: Plan,
    prompt: Prompt,
    request: MethodRequest,
    max_tokens: int | None,
) -> Job:
    """Load what is needed and hold the request against it, before any token.

    Raises:
        Fault: a field that cannot be honoured.
        ItscaleError: model or scorer cannot be loaded or do not offer what the method needs.
    """
    choices = request.n or 1
    within_limits(runtime.config.limits, plan, choices, max_tokens)
    model = await served.model(prompt)
    _refuse_unreadable(prompt, model)
    method = plan.method
    if method is None:
        method = Plain(stepwise=served.takes_steps and not prompt.more)
    options: dict[str, Any] = {"max_tokens": max_tokens or min(method.max_tokens, plan.max_tokens)}
    if request.top_p is not None:
        options["top_p"] = request.top_p
    compares = method.scales and (plan.budget.generations or 2) > 1
    if request.temperature is not None and not (request.temperature == 0 and compares):
        options["temperature"] = request.temperature
    method = replace(method, **options)
    scorer = await runtime.scorer(plan.scorer)
    if scorer is not None and scorer.plain_only:
        _refuse_unjudged(prompt, plan)
    try:
        method.check(model, scorer)
    except OptionError as error:
        raise option_fault(error, "model") from None
    seed = request.seed
    if seed is None:
        seed = 0 if request.temperature == 0 else secrets.randbits(48)
    seed %= _SEEDS
    seeds = (seed, *(derive(seed, "choice", i) for i in range(1, choices)))
    return Job(plan, prompt, method, model, scorer, seeds)


def _refuse_unreadable(prompt: Prompt, model: Model) -> None:
    """What only a chat server can read, refused by name where there is none."""
    if prompt.more and not isinstance(model, OpenAIModel):
        name = prompt.more[0]
        raise Fault(
            400,
            f"{name} cannot be honoured by this model, which reads plain messages; leave it out, or use a "
            "model behind a chat server",
            param=name,
            code="unsupported_parameter",
        )


def _refuse_unjudged(prompt: Prompt, plan: Plan) -> None:
    """What the scorer cannot read, refused by name before any token."""
    if unread := prompt.judged.more:
        raise Fault(
            400,
            f"{unread[0]} cannot be judged by scorer {plan.scorer!r}, which reads plain messages; leave it "
            "out, or use a method that votes (majority)",
            param=unread[0],
            code="unsupported_parameter",
        )


async def run_all(job: Job) -> list[Result]:
    """All choices at once. An error or a cancellation cancels the others, up to their servers."""
    if len(job.seeds) == 1:
        return [await job.run(0)]
    tasks = [asyncio.ensure_future(job.run(i)) for i in range(len(job.seeds))]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
