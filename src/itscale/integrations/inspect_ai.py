"""A model of inspect_ai that is a method of itscale on any model of itscale, in inspect_ai's own process.

    inspect eval task.py --model itscale/embedded -M method=best-of-n -M n=8
    inspect eval task.py --model itscale/openai:qwen@http://127.0.0.1:8001/v1 -M method=majority -M n=16

Found by the entry point `inspect_ai`, so installing itscale beside inspect_ai is all it takes. Token counts
end up in the log as what the method spent, and how the answer came about stands in the output's metadata.

Law: what inspect_ai asks for is honoured, or refused with its name. Tools are refused here: ask a running
gateway (`openai-api/...`), which votes on tool calls.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    messages_to_openai,
    modelapi,
)

from itscale.budget import Budget
from itscale.errors import OptionError, PromptError
from itscale.methods.base import Method, Result
from itscale.models.base import Model
from itscale.registry import load_model, load_scorer, parse_method
from itscale.scorers.base import Scorer
from itscale.types import Message, Prompt, to_json

__all__ = ["ItscaleAPI", "itscale"]

_HONOURED = {"temperature", "top_p", "max_tokens", "seed", "stop_seqs", "system_message"}
_INSPECTS_OWN = {
    *("max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections"),
    *("adaptive_connections", "max_tool_output", "cache", "cache_prompt", "batch", "fail_on_refusal"),
    *("fallback_models", "parallel_tool_calls", "internal_tools", "reasoning_history"),
}
"""Fields that say what inspect_ai itself does, or nothing where there are no tools."""


@modelapi(name="itscale")  # type: ignore[untyped-decorator, unused-ignore]
def itscale() -> type[ItscaleAPI]:
    """What the entry point registers."""
    return ItscaleAPI


class ItscaleAPI(ModelAPI):  # type: ignore[misc, unused-ignore]
    """`itscale/MODEL` with `-M method=... -M n=... -M scorer=... -M tokens=... -M seconds=...`.

    Raises:
        OptionError: method, scorer or model are unknown, or do not go together.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        method: str = "majority",
        n: int = 8,
        scorer: str | None = None,
        tokens: int | None = None,
        seconds: float | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if base_url or api_key:
            raise OptionError(
                "a server is named in itscale's own way: itscale/openai:MODEL@URL, its key in ITSCALE_API_KEY"
            )
        self._method = parse_method(method)
        self._scorer_spec = scorer or (
            "embedded" if self._wants_a_scorer and model_name == "embedded" else None
        )
        self._budget = Budget(generations=n, tokens=tokens, seconds=seconds)
        self._loading = asyncio.Lock()
        self._loaded: tuple[Model, Scorer | None] | None = None

    @property
    def _wants_a_scorer(self) -> bool:
        return self._method.scorer_kind != "none"

    async def generate(
        self,
        input: list[Any],  # noqa: A002  inspect_ai's word
        tools: list[Any],
        tool_choice: Any,
        config: GenerateConfig,
    ) -> ModelOutput:
        """What the method answers. Raises OptionError, PromptError, ModelError: as `Method.run`."""
        if tools:
            raise PromptError("tools are not honoured by itscale/...; use a running gateway (openai-api/...)")
        fields = _fields(config)
        said = [Message.of(dict(message)) for message in await messages_to_openai(input)]
        prompt = Prompt(messages=tuple(said), request=to_json(fields) if fields else None)
        model, scorer = await self._ready()
        seed = (
            config.seed if config.seed is not None else 0 if config.temperature == 0 else secrets.randbits(48)
        )
        method = _configured(self._method, config, self._budget)
        result = await method.run(prompt, model, scorer, self._budget, seed % 2**63)
        return _output(self.model_name, result)

    async def _ready(self) -> tuple[Model, Scorer | None]:
        async with self._loading:
            if self._loaded is None:
                model = await asyncio.to_thread(load_model, self.model_name)
                spec = self._scorer_spec if self._wants_a_scorer else None
                scorer = await asyncio.to_thread(load_scorer, spec) if spec else None
                self._loaded = model, scorer
        return self._loaded

    async def aclose(self) -> None:
        """Release the model."""
        if self._loaded is not None:
            (model, scorer), self._loaded = self._loaded, None
            await model.close()
            if scorer is not None:
                await scorer.close()


def _fields(config: GenerateConfig) -> dict[str, Any]:
    """What goes to a model's server as it is; raises PromptError for what nobody honours."""
    given = config.model_dump(exclude_none=True).keys()
    refused = sorted(given - _HONOURED - _INSPECTS_OWN)
    if refused:
        raise PromptError(f"{refused[0]} is not honoured by itscale/...; leave it out")
    return {"stop": config.stop_seqs} if config.stop_seqs else {}


def _configured(method: Method, config: GenerateConfig, budget: Budget) -> Method:
    """The method with a request's own settings. Temperature 0 asks for one reproducible answer: samples that
    are to be compared are drawn at the method's own temperature, from seed 0."""
    compares = method.scales and (budget.generations or 2) > 1
    options: dict[str, Any] = {}
    if config.temperature is not None and not (config.temperature == 0 and compares):
        options["temperature"] = config.temperature
    if config.top_p is not None:
        options["top_p"] = config.top_p
    if config.max_tokens is not None:
        options["max_tokens"] = config.max_tokens
    return replace(method, **options)


def _output(name: str, result: Result) -> ModelOutput:
    chosen, usage = result.candidates[result.chosen].path, result.usage
    return ModelOutput(
        model=name,
        choices=[
            ChatCompletionChoice(
                message=ChatMessageAssistant(content=result.text, model=name, source="generate"),
                stop_reason="stop" if chosen.finished else "max_tokens",
            )
        ],
        usage=ModelUsage(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            input_tokens_cache_read=usage.cached_tokens,
            output_tokens=usage.generated_tokens,
            total_tokens=usage.prompt_tokens + usage.generated_tokens,
            reasoning_tokens=max(0, usage.generated_tokens - chosen.n_tokens),
        ),
        time=usage.seconds,
        metadata={
            "method": result.method,
            "seed": result.seed,
            "answer": result.answer,
            "stop_reason": result.stop_reason.value,
            "candidates": [dict(candidate.to_json()) for candidate in result.candidates],
            "usage": usage.to_json(),
        },
    )
