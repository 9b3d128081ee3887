"""The laws of the model seam, as functions that work on any `Model`: one table over implementations.

Each `check_*` raises `LawBroken` with what was expected and what came; a law about something that a
model does not offer passes without asking. `MODEL_LAWS` holds them all, so that whoever writes a
backend parametrises one test over it and inherits those to come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from itscale.budget import Budget, Ledger
from itscale.models.base import Capability, Model
from itscale.randomness import Neighbours, Seeded
from itscale.types import End, Path, Prompt, Sampling, Step, Until

__all__ = [
    "MODEL_LAWS",
    "LawBroken",
    "check_forced",
    "check_given",
    "check_length_is_not_eos",
    "check_one_seed",
    "check_samples_alike",
    "check_samples_differ",
    "check_stepwise_equals_single_pass",
    "check_token_statistics",
    "check_usage",
]

TOLERANCE_NATS = 0.02
"""What a batch may change in a log-probability, half-float engines included."""


class LawBroken(AssertionError):  # noqa: N818  it reads as what it says
    """An implementation breaks a law of its seam."""


async def check_stepwise_equals_single_pass(
    model: Model, prompts: Sequence[Prompt], *, max_tokens: int = 64
) -> None:
    """Greedy in steps gives the tokens of greedy in one pass (for models that offer STEPS).

    Raises:
        LawBroken: on the first prompt where it does not.
    """
    if Capability.STEPS not in model.capabilities:
        return
    greedy, rng, ledger = Sampling(temperature=0.0), Seeded(0), Ledger(Budget())
    for prompt in prompts:
        whole, path = await _greedy(model, prompt, max_tokens), Path.root(prompt)
        while not path.ended and path.n_tokens < max_tokens:
            until = Until("step", max_tokens - path.n_tokens)
            [path] = await model.extend(path, 1, until, greedy, rng, ledger)
        _require(
            _said(path) == _said(whole),
            f"on {prompt.question!r} stepwise greedy gave {_said(path)!r}, single-pass {_said(whole)!r}",
        )


async def check_samples_differ(
    model: Model, prompts: Sequence[Prompt], *, n: int = 8, max_tokens: int = 64
) -> None:
    """N samples of one call, under one seed, are not all the same answer.

    Pick prompts the model is unsure of: a false alarm has the probability that n independent
    samples agree (on a fair coin with n = 8, one in 128).

    Raises:
        LawBroken: on the first prompt where all are the same.
    """
    for prompt in prompts:
        paths = await _sampled(model, prompt, n, max_tokens, Ledger(Budget()))
        _require(
            len({_said(path) for path in paths}) > 1,
            f"on {prompt.question!r} all {n} samples of one call are {_said(paths[0])!r}; "
            "child i must draw from rng.child(i)",
        )


async def check_one_seed(
    model: Model, prompts: Sequence[Prompt], *, n: int = 4, max_tokens: int = 64
) -> None:
    """The same call with the same seed gives the same children (for models that offer SEEDS).

    Raises:
        LawBroken: on the first prompt where it does not.
    """
    if Capability.SEEDS not in model.capabilities:
        return
    for prompt in prompts:
        first, again = [await _sampled(model, prompt, n, max_tokens, Ledger(Budget())) for _ in range(2)]
        _require(
            [_said(path) for path in first] == [_said(path) for path in again],
            f"on {prompt.question!r} one seed gave two results; draw from rng, never from a global generator",
        )


async def check_samples_alike(
    model: Model, prompts: Sequence[Prompt], *, n: int = 4, max_tokens: int = 64
) -> None:
    """An answer is the same drawn with others, with fewer of them, or alone (for models that draw several
    together, `samples_together`, and say that they are `samples_alike`).

    Raises:
        LawBroken: on the first prompt where it is not.
    """
    if not (model.samples_together and model.samples_alike):
        return
    until, sampling = Until("end", max_tokens), Sampling(temperature=1.0)
    for prompt in prompts:
        rng = Seeded(0)
        streams = Neighbours([rng.child("sample", i) for i in range(n)], rng.child("samples", 0))

        async def drawn(some: Neighbours, prompt: Prompt = prompt) -> list[tuple[int, ...] | str]:
            came: dict[int, Path] = {}
            call = (Path.root(prompt), len(some.streams), until, sampling, some, Ledger(Budget()))
            await model.extend_each(*call, came.__setitem__)
            return [_said(came[i]) for i in sorted(came)]

        whole, rest, last = [await drawn(streams.some(i, n - i)) for i in (0, 1, n - 1)]
        _require(
            whole[1:] == rest and whole[-1:] == last,
            f"on {prompt.question!r} answers drawn together are {whole}, without the first {rest}, and the "
            f"last alone {last}; draw child i from rng.child(i), or do not say samples_alike",
        )


async def check_usage(model: Model, prompts: Sequence[Prompt], *, n: int = 3, max_tokens: int = 64) -> None:
    """Every call is charged, and every token of every child is, once.

    Raises:
        LawBroken: on the first prompt where the account is wrong.
    """
    for prompt in prompts:
        ledger = Ledger(Budget())
        paths = await _sampled(model, prompt, n, max_tokens, ledger)
        made = sum(path.n_tokens for path in paths)
        question = prompt.question
        _require(ledger.model_calls >= 1, f"on {question!r} the call was not charged; use charge_model")
        _require(
            ledger.generated_tokens == made,
            f"on {question!r} the {n} children have {made} tokens, {ledger.generated_tokens} were charged",
        )
        _require(
            0 <= ledger.cached_tokens <= ledger.prompt_tokens > 0,
            f"on {question!r} prompt {ledger.prompt_tokens} and cached {ledger.cached_tokens} tokens were "
            "charged; cached is a part of prompt, and no context is empty",
        )


async def check_length_is_not_eos(model: Model, prompts: Sequence[Prompt], *, max_tokens: int = 64) -> None:
    """A limit is kept, and what it cuts off is never called finished.

    Raises:
        LawBroken: on the first prompt where either fails.
        ValueError: the greedy answers are too short to be cut, so that nothing would be checked.
    """
    cut = 0
    for prompt in prompts:
        whole = await _greedy(model, prompt, max_tokens)
        for limit in sorted({1, whole.n_tokens // 2, whole.n_tokens - 1} - {0, whole.n_tokens}):
            path = await _greedy(model, prompt, limit)
            cut += 1
            _require(
                path.n_tokens == limit
                and path.token_ids == whole.token_ids[:limit]
                and whole.text.startswith(path.text),
                f"on {prompt.question!r} max_tokens={limit} gave {_said(path)!r} instead of the "
                f"beginning of {_said(whole)!r}",
            )
            _require(
                path.truncated and not path.finished,
                f"on {prompt.question!r} max_tokens={limit} cut the answer and called it {path!r}",
            )
    if not cut:
        raise ValueError("every greedy answer is a single token; give prompts with longer answers")


async def check_token_statistics(
    model: Model, prompts: Sequence[Prompt], *, n: int = 3, max_tokens: int = 64
) -> None:
    """Every token has a log-probability and an entropy that go together, and a self-certainty from models
    that offer that too (for models that offer TOKEN_STATISTICS, asked for as they say).

    Of a token of probability p the entropy is at least that of a coin of p, and -log p where it is the
    likeliest one. That holds of the true entropy, and of the least that some of the law allows.

    Raises:
        LawBroken: on the first step where one is missing or impossible, or they are not its `logprob`.
    """
    if Capability.TOKEN_STATISTICS not in model.capabilities:
        return
    certain = Capability.SELF_CERTAINTY in model.capabilities
    for prompt in prompts:
        for temperature in (1.0, 0.0):
            sampling = Sampling(temperature=temperature, top_logprobs=model.top_logprobs)
            least = _least_entropy if temperature else lambda p: -p
            until, ledger = Until("end", max_tokens), Ledger(Budget())
            count = n if temperature else 1
            paths = await model.extend(Path.root(prompt), count, until, sampling, Seeded(0), ledger)
            for step in (step for path in paths for step in path.steps):
                _check_statistics(step, f"on {prompt.question!r} step {step.text!r}", certain, least)


def _check_statistics(step: Step, where: str, certain: bool, least: Callable[[float], float]) -> None:
    if step.n_tokens and not step.token_ids:
        return  # the backend could not tell which tokens they are: a part of a character, say
    told, unsure = step.token_logprobs or (), step.token_entropies or ()
    sure = step.token_certainties or ()
    _require(
        len(told) == len(unsure) == len(step.token_ids) and len(sure) == len(told) * certain,
        f"{where} of {len(step.token_ids)} tokens has "
        f"{len(told)} log-probabilities, {len(unsure)} entropies and {len(sure)} certainties",
    )
    _require(
        all(p <= 1e-6 for p in told) and all(h >= -1e-6 for h in (*unsure, *sure)),
        f"{where} has log-probabilities {told}, entropies {unsure} and certainties {sure}",
    )
    _require(
        all(h > least(min(p, 0.0)) - TOLERANCE_NATS for p, h in zip(told, unsure, strict=True)),
        f"{where} has entropies {unsure}, too small for log-probabilities {told}",
    )
    _require(
        step.logprob is not None and math.isclose(math.fsum(told), step.logprob, abs_tol=1e-6),
        f"{where} has the log-probability {step.logprob}, its tokens have {told}",
    )


def _least_entropy(logprob: float) -> float:
    """Of a law in which a token has this log-probability: that of a coin, nats."""
    p = math.exp(logprob)
    return -p * logprob - ((1 - p) * math.log1p(-p) if 0 < p < 1 else 0.0)


async def check_given(model: Model, prompts: Sequence[Prompt], *, n: int = 4, max_tokens: int = 64) -> None:
    """What is told of given tokens is what they were drawn with, wherever they are cut (for models that
    offer GIVEN), and costs no generated token, or the one that some servers generate to answer.

    Raises:
        LawBroken: on the first prompt where it is not.
    """
    if Capability.GIVEN not in model.capabilities:
        return
    sampling = Sampling(temperature=1.0)
    for prompt in prompts:
        ledger = Ledger(Budget())
        for path in await _sampled(model, prompt, n, max_tokens, Ledger(Budget())):
            told = await model.logprobs_of(Path.root(prompt), path.token_ids, sampling, ledger)
            parts: list[float] = []
            for node in [node for node in path.nodes() if node.step is not None][::-1]:
                assert node.step is not None
                assert node.parent is not None
                parts += await model.logprobs_of(node.parent, node.step.token_ids, sampling, ledger)
            _require(
                len(told) == path.n_tokens and _near(told, parts),
                f"on {prompt.question!r} {path.n_tokens} given tokens have {told} at once and {parts} "
                "step by step",
            )
            drawn = [step.logprob for step in path.steps if step.logprob is not None]
            _require(
                len(drawn) < path.depth
                or abs(math.fsum(told) - math.fsum(drawn)) < TOLERANCE_NATS * len(told),
                f"on {prompt.question!r} the tokens of an answer drawn with {drawn} have {told} when given",
            )
        _require(
            ledger.generated_tokens <= ledger.model_calls,
            f"on {prompt.question!r} given tokens were charged as generated",
        )


async def check_forced(model: Model, prompts: Sequence[Prompt], *, max_tokens: int = 64) -> None:
    """A path goes on from text put there as from the same text drawn (for models that offer FORCING).

    Raises:
        LawBroken: on the first prompt where it does not.
    """
    if not {Capability.FORCING, Capability.STEPS} <= model.capabilities:
        return
    greedy = Sampling(temperature=0.0)
    for prompt in prompts:
        whole, root = await _greedy(model, prompt, max_tokens), Path.root(prompt)
        first = whole.steps[0]
        forced = model.forced(root, first.text)
        _require(
            forced.step is not None and forced.step.forced and forced.text == first.text and not forced.ended,
            f"on {prompt.question!r} forcing {first.text!r} gave {forced!r}",
        )
        same = forced.step is not None and forced.step.token_ids == first.token_ids
        if not same or first.end is not End.BOUNDARY:
            continue  # other tokens may say the same, and then something else may follow
        until = Until("end", max_tokens - first.n_tokens)
        [rest] = await model.extend(forced, 1, until, greedy, Seeded(0), Ledger(Budget()))
        _require(
            _said(rest) == _said(whole),
            f"on {prompt.question!r} greedy goes on from its own first step, forced, to {_said(rest)!r} "
            f"instead of {_said(whole)!r}",
        )


def _near(first: Sequence[float], second: Sequence[float]) -> bool:
    return len(first) == len(second) and all(
        abs(a - b) < TOLERANCE_NATS for a, b in zip(first, second, strict=True)
    )


def _said(path: Path) -> tuple[int, ...] | str:
    """Token ids, or the text of a model that gives no ids."""
    return path.token_ids or path.text


async def _greedy(model: Model, prompt: Prompt, max_tokens: int) -> Path:
    """The likeliest answer, in one pass."""
    until, sampling = Until("end", max_tokens), Sampling(temperature=0.0)
    [path] = await model.extend(Path.root(prompt), 1, until, sampling, Seeded(0), Ledger(Budget()))
    return path


async def _sampled(model: Model, prompt: Prompt, n: int, max_tokens: int, ledger: Ledger) -> list[Path]:
    """`n` whole answers at temperature 1 under seed 0."""
    paths = await model.extend(
        Path.root(prompt), n, Until("end", max_tokens), Sampling(temperature=1.0), Seeded(0), ledger
    )
    _require(len(paths) == n, f"{n} children were asked for, {len(paths)} came")
    return paths


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise LawBroken(message)


MODEL_LAWS = (
    check_stepwise_equals_single_pass,
    check_samples_differ,
    check_one_seed,
    check_samples_alike,
    check_usage,
    check_length_is_not_eos,
    check_token_statistics,
    check_given,
    check_forced,
)
"""All laws of the model seam, each callable as `await law(model, prompts)`."""
