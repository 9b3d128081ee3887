"""A causal language model run by vLLM in this process: `vllm:PATH`.

vLLM batches, schedules and keeps prefixes itself (prefix caching is on); here paths become its
requests, token ids in and out. Steps end on tokens: the boundary tokens and the end-of-sequence
tokens are given as stop tokens, never as text. Log-probabilities are those after temperature, top-k
and top-p (`logprobs_mode=processed_logprobs`). Each child is a request with a seed of its own.
Entropies are computed from the likeliest tokens that vLLM tells at every place: all of a small
vocabulary, which makes them exact, and of a large one as many as servers are asked for.

vLLM wants one event loop for life, so it gets a thread with a loop; calls from any other loop wait
for it there.

Not covered: vLLM draws with generators of its own, so a seed gives other draws than in-process
engines give, of the same law; and where two tokens are as good as equal the batch may decide.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, TypeVar

from itscale.budget import Ledger
from itscale.errors import ModelError, OptionError
from itscale.models.base import Capability, Model
from itscale.models.in_process import Checkpoint, PromptReader, boundary_ids, forced_by, speller
from itscale.models.likeliest import statistics_of
from itscale.models.local import fingerprint
from itscale.randomness import Randomness
from itscale.types import End, Path, Sampling, Step, Until

__all__ = ["VLLMModel"]

T = TypeVar("T")
_SEEDS = 2**31
_WHOLE_LAW = 4096
"""The largest vocabulary all of whose log-probabilities are asked for: vLLM tells each as an object."""
_LIKELIEST = 20
"""Otherwise so many of the likeliest tokens."""
_LOGS = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
"""vLLM logs pages to standard output, where answers and JSON belong."""


@dataclass(slots=True)
class _Tally:
    """What one request has cost and brought so far, also when it is cut off."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[list[float]] = field(default_factory=list)
    """At the place of each token, what was told of the law it was drawn from."""
    given: list[float] = field(default_factory=list)
    """Log-probabilities of the prompt's tokens but the first, where they were asked for."""
    cached: int = 0
    finish: str = "abort"


class VLLMModel(Model):
    """A causal language model that vLLM runs."""

    def __init__(self, home: _Home, engine: Any, tokenizer: Any, facts: Checkpoint, folder: FilePath) -> None:
        self.name = f"vllm:{folder}"
        self.prompts = PromptReader(tokenizer, facts)
        self._tokenizer = tokenizer
        self._folder = folder
        self._home = home
        self._engine = engine
        self._text_of = speller(tokenizer.backend_tokenizer.decode)
        config = engine.model_config
        self._max_context = int(config.max_model_len)
        eos = config.try_get_generation_config().get("eos_token_id", tokenizer.eos_token_id)
        self._eos = frozenset(eos if isinstance(eos, list) else [eos])
        self._boundary = frozenset(boundary_ids(self._text_of, range(len(tokenizer)), facts))
        self._numbers = itertools.count()
        vocabulary = int(config.get_vocab_size())
        self._vocabulary = vocabulary if vocabulary <= _WHOLE_LAW else None
        """How many tokens there are, where all are told of."""
        self.capabilities = frozenset(Capability) - {Capability.HIDDEN}
        if self._vocabulary is None:
            self.capabilities -= {Capability.SELF_CERTAINTY}

    @classmethod
    def load(cls, folder: FilePath, **options: Any) -> VLLMModel:
        """The model in a checkpoint folder; `options` are those of vLLM's engine (`max_model_len=...`).

        Raises:
            OptionError: vLLM is not installed.
            ModelError: the folder holds no checkpoint that vLLM runs.
        """
        facts = Checkpoint.read(folder)
        for name, value in _LOGS.items():
            os.environ.setdefault(name, value)  # read as vllm is imported
        try:
            import transformers
            import vllm
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise OptionError(
                f'in-process vLLM is not installed: pip install "itscale[vllm]" ({error})'
            ) from error
        wanted = {
            "model": str(folder),
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": -1,
            "skip_tokenizer_init": True,
            "disable_log_stats": True,
            # A prompt read in parts, with a seed of its own, ends vLLM 0.32 on CPUs: their generators
            # have no offset to go back by.
            **({"enable_chunked_prefill": False} if current_platform.is_cpu() else {}),
            **options,
        }
        home = _Home()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            # In no variable of its own: an error that vLLM keeps from its imports keeps this frame.
            return cls(
                home, home.run(_started(AsyncLLM, vllm.AsyncEngineArgs(**wanted))), tokenizer, facts, folder
            )
        except Exception as error:
            home.close()
            raise ModelError(
                f"vLLM cannot run {folder} ({str(error).strip().splitlines()[:1]}); see what it printed above"
            ) from error

    @property
    def identity(self) -> str:
        return fingerprint(self._folder)

    @property
    def top_logprobs(self) -> int:
        return self._vocabulary or _LIKELIEST

    def tells(self, sampling: Sampling, what: frozenset[Capability]) -> bool:
        return sampling.plain or what <= {Capability.LOGPROBS}

    def forced(self, path: Path, text: str | Sequence[int]) -> Path:
        return forced_by(self._tokenizer, self._text_of, path, text)

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        if sampling.top_logprobs and not sampling.plain:
            raise OptionError(
                f"{self.name} tells the statistics of tokens at temperature 1 without top-p and top-k; "
                "use these, or hf:PATH, which tells them always"
            )
        ids = [*self.prompts.of_path(path), *path.token_ids]
        room = self._max_context - len(ids)
        if room < 1:
            if path.step is not None:
                return [path.child(Step((), "", End.LENGTH, 0.0)) for _ in range(n)]
            raise ModelError(
                f"the prompt has {len(ids)} tokens and the model's context holds {self._max_context}; "
                "shorten it"
            )
        until = Until(until.what, min(until.max_tokens, room))
        tallies = [_Tally() for _ in range(n)]
        asked = (
            self._generate(ids, self._parameters(until, sampling, rng.child(i).seed), tally)
            for i, tally in enumerate(tallies)
        )
        try:
            await self._home.wait_for(_all(asked))
        except ExceptionGroup as failures:
            raise ModelError(f"vLLM failed: {failures.exceptions[0]!r}; see what it printed") from failures
        finally:
            ledger.charge_model(
                prompt=len(ids),
                cached=min(tally.cached for tally in tallies),
                generated=sum(len(tally.token_ids) for tally in tallies),
            )
        return [self._grown(path, tally, until, sampling) for tally in tallies]

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        """Read off a prompt that holds them; vLLM generates one token to answer, which is charged."""
        if not sampling.plain:
            raise OptionError(
                f"{self.name} tells log-probabilities of given tokens at temperature 1 without top-p and "
                "top-k; use these, or hf:PATH, which tells them always"
            )
        if not token_ids:
            return ()
        ids = [*self.prompts.of_path(path), *path.token_ids, *token_ids]
        if len(ids) >= self._max_context:
            raise ModelError(
                f"{len(ids)} tokens are given and the model's context holds {self._max_context}, "
                "one of them for an answer; give fewer"
            )
        import vllm

        parameters = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        tally = _Tally()
        try:
            await self._home.wait_for(self._generate(ids, parameters, tally))
        except Exception as error:
            raise ModelError(f"vLLM failed: {error!r}; see what it printed") from error
        finally:
            ledger.charge_model(prompt=len(ids), cached=tally.cached, generated=len(tally.token_ids))
        return tuple(tally.given[-len(token_ids) :])

    async def close(self) -> None:
        self._home.run(_called(self._engine.shutdown))
        self._engine = None  # one that is left at the end of the process complains
        self._home.close()

    def _parameters(self, until: Until, sampling: Sampling, seed: int) -> Any:
        import vllm
        from vllm.sampling_params import RequestOutputKind

        return vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed % _SEEDS,
            max_tokens=until.max_tokens,
            stop_token_ids=sorted(self._eos | (self._boundary if until.what == "step" else frozenset())),
            ignore_eos=True,  # it is among the stop tokens
            logprobs=-1 if sampling.top_logprobs and self._vocabulary else sampling.top_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def _generate(self, ids: Sequence[int], parameters: Any, tally: _Tally) -> None:
        """One request, on vLLM's loop. Cancelling it aborts it there."""
        stream = self._engine.generate(
            {"prompt_token_ids": list(ids)}, parameters, f"itscale-{next(self._numbers)}"
        )
        async for output in stream:
            [part] = output.outputs
            tally.token_ids += part.token_ids
            for table, token in zip(part.logprobs or (), part.token_ids, strict=bool(part.logprobs)):
                tally.logprobs.append(table[token].logprob)
                if parameters.logprobs:
                    tally.likeliest.append([told.logprob for told in table.values()])
            if output.prompt_logprobs:
                given = zip(output.prompt_logprobs, ids, strict=True)
                tally.given = [table[token].logprob for table, token in given if table is not None]
            tally.cached = output.num_cached_tokens or 0
            tally.finish = part.finish_reason or tally.finish

    def _grown(self, path: Path, tally: _Tally, until: Until, sampling: Sampling) -> Path:
        """The path with the steps of an answer, cut at boundary tokens."""
        ids, start = tally.token_ids, 0
        if not ids:
            raise ModelError("vLLM gave an answer up before its first token; see what it printed")
        stops = [i + 1 for i, token in enumerate(ids) if token in self._boundary]
        for stop in stops if stops and stops[-1] == len(ids) else [*stops, len(ids)]:
            own = tuple(ids[start:stop])
            end = self._end(own[-1], stop == len(ids), tally, until)
            text = self._text_of(path.token_ids[-8:], own)
            told = tuple(tally.logprobs[start:stop])
            step = Step(own, text, end, math.fsum(told), token_logprobs=told)
            if laws := tally.likeliest[start:stop]:
                known = statistics_of(laws, sampling.top_logprobs, self._vocabulary)
                step = replace(step, token_entropies=known.entropies, token_certainties=known.certainties)
            path = path.child(step)
            start = stop
        return path

    def _end(self, token: int, last: bool, tally: _Tally, until: Until) -> End:
        if last and token in self._eos:
            return End.EOS
        if token in self._boundary and not (last and until.what == "end"):
            return End.BOUNDARY
        return End.LENGTH if tally.finish == "length" else End.ABORT


async def _all(asked: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for one in asked:
            group.create_task(one)


async def _started(kind: Any, arguments: Any) -> Any:
    """The engine, made where its loop runs."""
    return kind.from_engine_args(arguments)


async def _called(function: Any) -> None:
    function()


async def _cleared() -> None:
    """Every other task of this loop has ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Home:
    """A thread with an event loop that lives as long as the engine does."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="itscale-vllm", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it there, and block until it is done."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it there. When this wait is cancelled the work is too, and has ended when this returns."""
        ended: Future[None] = Future()
        tasks: list[asyncio.Task[None]] = []

        def start() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda _: ended.set_result(None))

        self._loop.call_soon_threadsafe(start)
        waiting = asyncio.wrap_future(ended)
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            await waiting
            raise
        tasks[0].result()

    def close(self) -> None:
        """End what is done there, stop the loop and the thread."""
        self.run(_cleared())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
