"""Finding out what a server honours, with a handful of short requests, before the first run.

Nothing is believed because of a name or a version: the stop string, the prefilled turn, `n` and
`seed` are tried on the server's own greedy answer and hold only if it comes back as it must. The
few hundred tokens this takes are in no run's account.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from itscale.errors import ModelError, OptionError, PromptError, did_you_mean
from itscale.models.openai.address import ALL, Address
from itscale.models.openai.chatting import NEUTRAL, QUESTION, SAMPLED, TOKENS, UNWANTED, ChatTrial
from itscale.models.openai.client import Call, Endpoint
from itscale.models.openai.dialects import Facts, Prefill, token_ids_of
from itscale.models.openai.failures import Refused
from itscale.models.openai.given import way_to_tell
from itscale.models.openai.llama import LlamaAssembly, completion_body, prompt_ids, read_native
from itscale.models.openai.stream import stream_fields
from itscale.models.openai.trials import (
    comes_in_pieces,
    counts_up,
    samples_differ,
    seeds_decide,
    way_of_telling,
)
from itscale.models.openai.wire import Choice, Malformed, Reply, read_completion
from itscale.types import Prompt, Sampling

__all__ = ["chat_facts", "is_offered", "models_at", "probe"]

_LIKELIEST = 20
"""What vLLM tells unless it is started to tell more, and the protocol at most."""
_ANY = 2**20
"""More than any vocabulary has; a server that is asked for more tokens than there are tells all."""
_GREEDY = {"temperature": 0.0, "top_p": 1.0}


async def models_at(endpoint: Endpoint) -> dict[str, int | None]:
    """The models a server offers, each with its context in tokens where it says.

    Raises:
        ModelError: it cannot be reached, refused, or is no such server.
    """
    url = f"{endpoint.address.url}/models"
    try:
        answer = await endpoint.get(url)
    except Refused as refused:
        if refused.status == 404:
            raise _incompatible(endpoint.address, f"it has no {url}") from None
        raise
    listed = answer.get("data")
    if not isinstance(listed, list) or not all(isinstance(m, dict) and "id" in m for m in listed):
        raise _incompatible(endpoint.address, f"{url} lists no models")
    return {str(model["id"]): _size(model.get("max_model_len")) for model in listed}


def is_offered(name: str, offered: Collection[str]) -> bool:
    """Whether a server that lists these has it: an itscale gateway lists METHOD/MODEL, and takes
    METHOD:option=value/MODEL."""
    method, _, model = name.partition("/")
    return name in offered or f"{method.partition(':')[0]}/{model}" in offered


async def probe(endpoint: Endpoint) -> Facts:
    """What the address's model honours; an address without a model means the only one.

    Raises:
        OptionError: the server has no model of that name, or several and none was named.
        ModelError: it cannot be reached, refused, or does not speak the protocol.
    """
    offered = await models_at(endpoint)
    name = endpoint.address.model
    if not name:
        if len(offered) != 1:
            which = f"one of: {', '.join(sorted(offered))}" if offered else "the one it was started with"
            form = f"openai:MODEL@{endpoint.address.url}"
            raise OptionError(
                f"{endpoint.address.url} lists {len(offered)} models; name it as {form}, {which}"
            )
        [name] = offered
    if offered and not is_offered(name, offered):  # transformers serve lists its download cache
        raise OptionError(
            f"{did_you_mean('model', name, offered)}; that is what {endpoint.address.url} offers"
        )
    facts = await _token_facts(endpoint, name, offered.get(name)) or await _llama_facts(endpoint, name)
    facts = facts or await chat_facts(endpoint, name, offered.get(name))
    wanted = endpoint.address.top_logprobs
    if wanted is not None and facts.top_logprobs is None:
        which = "all" if wanted == ALL else f"the {wanted} likeliest"
        raise OptionError(
            f"{endpoint.address.url} does not tell {which} tokens "
            "at a place with their ids; start it so (vLLM: --max-logprobs), or leave out top_logprobs"
        )
    return facts


def _size(told: Any) -> int | None:
    return told if isinstance(told, int) and told > 0 else None


def _incompatible(address: Address, why: str) -> ModelError:
    return ModelError(f"{address.url} is no OpenAI-compatible server ({why}); give the URL that ends in /v1")


async def _token_facts(endpoint: Endpoint, model: str, context: int | None) -> Facts | None:
    """Facts of the token dialect; None if the server does not speak it."""
    ids = await _some_prompt(endpoint, model)
    if ids is None:
        return None
    url = f"{endpoint.address.url}/completions"
    shape: dict[str, Any] = {
        "model": model,
        "prompt": ids,
        "max_tokens": TOKENS,
        "logprobs": 1,
        "return_token_ids": True,
    }
    shape |= NEUTRAL

    async def ask(extra: Mapping[str, Any], call: Call | None = None) -> Reply:
        return read_completion(await endpoint.post(url, {**shape, **extra}, call), likeliest=True)

    async def law(temperature: float, k: int) -> Choice:
        # Named by their ids no two tokens are one; where texts are wanted that is no way to name them.
        by_id = {"return_tokens_as_token_ids": True} if k == ALL else {}
        extra = {**SAMPLED, "temperature": temperature, "seed": 7, "logprobs": k, **by_id}
        return (await ask(extra)).choices[0]

    async def several(temperature: float, seed: int, n: int) -> Reply:
        more = {"n": n} if n > 1 else {}
        return await ask({**SAMPLED, "temperature": temperature, "seed": seed, **more})

    try:
        greedy = (await ask(_GREEDY)).choices[0]
        if not greedy.token_ids or not greedy.pieces or len(greedy.token_ids) != len(greedy.pieces):
            return None
        first, n = await _asked_twice(ask)
        again = (await _asked_twice(ask))[0] if n else (await ask({**SAMPLED, "seed": 7})).choices[0]
        stop = await _stop_is_included(ask, greedy)
        seeds = await seeds_decide(lambda seed: ask({**SAMPLED, "seed": seed}), (first, again))
        given = await way_to_tell(endpoint, model, ids, greedy)
        streams = await comes_in_pieces(lambda style, call: ask(_GREEDY | stream_fields(style), call), greedy)
    except (Refused, Malformed):
        return None
    if not stop:
        return None
    wanted = endpoint.address.top_logprobs or _LIKELIEST
    top, vocabulary = await way_of_telling(law, wanted, distinct=wanted == ALL)
    return Facts(
        model=model,
        dialect="token",
        n=n,
        counts_up=n and seeds and await counts_up(several),
        seeds=seeds,
        takes_seed=True,
        logprobs=greedy.logprobs is not None,
        neutral=True,
        max_context=context,
        stop="included",
        streams=streams,
        given=given,
        top_logprobs=top,
        vocabulary=vocabulary,
    )


async def _llama_facts(endpoint: Endpoint, model: str) -> Facts | None:
    """Facts of llama.cpp's own endpoint; None if the server has no such, or its answers do not add up."""
    url = f"{endpoint.address.root}/completion"
    try:
        ids = list(await prompt_ids(endpoint, QUESTION))
        props = await endpoint.get(f"{endpoint.address.root}/props")

        async def ask(
            temperature: float, seed: int, stops: list[str], call: Call | None = None, k: int = 0
        ) -> Reply:
            sampling = Sampling(temperature=temperature, top_logprobs=k)
            body = completion_body(ids, TOKENS, sampling, stops, stream=call is not None)
            return read_native(await endpoint.post(url, {**body, "seed": seed}, call), likeliest=k > 0)

        async def law(temperature: float, k: int) -> Choice:
            return (await ask(temperature, 7, [], k=k)).choices[0]

        greedy = (await ask(0.0, 7, [])).choices[0]
        words = greedy.text.split()
        stopped = (await ask(0.0, 7, words[:1])).choices[0]
        pair = (await ask(1.0, 7, [])).choices[0], (await ask(1.0, 7, [])).choices[0]
        seeds = await seeds_decide(lambda seed: ask(1.0, seed, []), pair)
        streams = await comes_in_pieces(lambda _, call: ask(0.0, 7, [], call), greedy, LlamaAssembly)
    except (ModelError, PromptError, Malformed):
        return None
    told = not words or (stopped.stopped_on, stopped.finish) == (words[0], "stop")
    same = stopped.token_ids == (greedy.token_ids or ())[: len(stopped.token_ids or ())]
    if not (greedy.token_ids and same and told):
        return None
    settings = props.get("default_generation_settings")
    wanted = endpoint.address.top_logprobs or _LIKELIEST
    top, vocabulary = await way_of_telling(law, _ANY if wanted == ALL else wanted, distinct=True)
    return Facts(
        model=model,
        dialect="llama",
        n=False,
        seeds=seeds,
        takes_seed=True,
        logprobs=streams is not None and greedy.logprobs is not None,
        neutral=True,
        streams=streams,
        max_context=_size(settings.get("n_ctx")) if isinstance(settings, dict) else None,
        slots=_size(props.get("total_slots")),
        stop="named",
        top_logprobs=top,
        vocabulary=vocabulary,
    )


async def _some_prompt(endpoint: Endpoint, model: str) -> list[int] | None:
    for prompt in (QUESTION, Prompt(raw=QUESTION.question)):  # a base model has no chat template
        try:
            return list(await token_ids_of(endpoint, model, prompt))
        except PromptError:
            continue
        except ModelError:
            return None
    return None


async def _asked_twice(ask: Callable[[Mapping[str, Any]], Awaitable[Reply]]) -> tuple[Choice, bool]:
    """The first of two samples, and whether two came."""
    try:
        choices = (await ask(SAMPLED | {"seed": 7, "n": 2})).choices
    except Refused as refused:
        if refused.status not in UNWANTED:
            raise
        return (await ask(SAMPLED | {"seed": 7})).choices[0], False
    return choices[0], len(choices) == 2


async def _stop_is_included(ask: Callable[[Mapping[str, Any]], Awaitable[Reply]], greedy: Choice) -> bool:
    """Whether the greedy answer, stopped on its own first word, ends with it, in tokens and in text."""
    words = greedy.text.split()
    if not words:
        return greedy.finish == "stop"  # it says nothing to stop on
    end = greedy.text.index(words[0]) + len(words[0])
    extra = {"stop": [words[0]], "include_stop_str_in_output": True}
    stopped = (await ask(_GREEDY | extra)).choices[0]
    ids, pieces = stopped.token_ids or (), "".join(stopped.pieces or ())
    same = ids == (greedy.token_ids or ())[: len(ids)] and words[0] in pieces
    return same and stopped.finish == "stop" and stopped.text == greedy.text[:end]


async def chat_facts(endpoint: Endpoint, model: str, context: int | None) -> Facts:
    """Facts of the chat dialect.

    Raises:
        ModelError: the server does not speak it, or does not say how many tokens it generates.
    """
    chat = ChatTrial(endpoint, model)
    try:
        samples = await chat.settle()
        again = await chat.ask(SAMPLED, n=2)
        greedy = (await chat.ask(_GREEDY)).choices[0]
        pair = samples.choices[0], again.choices[0]
        seeds = "seed" in chat.features and await seeds_decide(
            lambda seed: chat.ask({**SAMPLED, "seed": seed}), pair
        )
    except Malformed as error:
        raise _incompatible(endpoint.address, f"its answer has {error}") from None
    except Refused as refused:
        if refused.status in (404, 405):
            raise _incompatible(endpoint.address, "it has no /chat/completions") from None
        raise
    first = samples.choices[0]
    counted = first.pieces is not None
    if samples.counts is None and not counted:
        raise ModelError(
            f"{endpoint.address.url} does not say how many tokens it generates, so no budget can be kept; "
            "switch usage on in the server"
        )

    async def hot() -> Reply:
        return await chat.ask({**SAMPLED, "temperature": 2.0}, n=4)

    async def several(temperature: float, seed: int, n: int) -> Reply:
        return await chat.ask({**SAMPLED, "temperature": temperature, "seed": seed}, n=n)

    n = len(samples.choices) == 2 and (counted or await samples_differ(samples, hot))
    facts = Facts(
        model=model,
        dialect="chat",
        n=n,
        counts_up=n and seeds and await counts_up(several),
        each=counted,
        seeds=seeds,
        takes_seed="seed" in chat.features,
        logprobs=first.logprobs is not None,
        neutral="neutral" in chat.features,
        no_top_k=chat.no_top_k,
        limit_field=chat.limit_field,
        max_context=context,
        method_on=samples.method_on,
        streams=await comes_in_pieces(
            lambda style, call: chat.ask(_GREEDY | stream_fields(style), call=call), greedy
        ),
    )
    return await _with_steps(chat, greedy.text, facts)


async def _with_steps(chat: ChatTrial, whole: str, facts: Facts) -> Facts:
    """The facts, with how a turn is continued and how a stop is told, where the server can do it."""
    cut = _telling_cut(whole)
    if cut is None:
        return facts
    styles: tuple[Prefill, ...] = ("continue", "prefix", "trailing")
    for style in styles:
        text = await _text_of(chat.ask(_GREEDY, text=whole[:cut], style=style))
        if text.startswith(whole[cut:]):
            return replace(facts, prefill=style, stop=await _stop_told(chat, whole))
    return facts


async def _text_of(asked: Awaitable[Reply]) -> str:
    """What came, or nothing if the server would not."""
    try:
        return (await asked).choices[0].text
    except (Refused, Malformed):
        return ""


async def _stop_told(chat: ChatTrial, whole: str) -> Literal["included", "named"] | None:
    """How the greedy answer, stopped on its own first word, tells that it was."""
    word = whole.split()[0]
    end = whole.index(word) + len(word)
    for extra in ({"include_stop_str_in_output": True}, {}):
        try:
            stopped = (await chat.ask({**_GREEDY, "stop": [word], **extra})).choices[0]
        except (Refused, Malformed):
            continue
        if stopped.finish == "stop" and extra and stopped.text == whole[:end]:
            return "included"
        if stopped.finish == "stop" and stopped.stopped_on == word:
            return "named" if stopped.text == whole[: end - len(word)] else None
    return None


def _telling_cut(text: str) -> int | None:
    """Behind a white space (or anywhere), so that going on differs from answering anew; None if nowhere."""
    inside = range(1, len(text))
    spaces = [i for i in inside if text[i - 1].isspace() and text[:i].strip()]
    telling = (i for i in [*spaces, *inside] if text[:i].strip() and not text.startswith(text[i:]))
    return next(telling, None)
