"""The token dialect of llama.cpp's own server (`llama-server`), spoken at /completion.

Its OpenAI-compatible endpoints name neither token ids nor the stop string an answer ended on, so
nothing could be continued exactly there. /completion takes ids and gives them back, with
`stop_type` and `stopping_word`.

Log-probabilities are not offered: where an answer ends on a stop string, the server leaves out
those of its last tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from itscale.errors import ModelError, PromptError
from itscale.models.openai.client import Endpoint
from itscale.models.openai.dialects import TokenDialect, messages_of
from itscale.models.openai.failures import Refused
from itscale.models.openai.wire import Choice, Malformed, Reply, counts_in
from itscale.types import Prompt, Sampling, Until

__all__ = ["LlamaDialect", "completion_body", "prompt_ids", "read_native"]


class LlamaDialect(TokenDialect):
    """Token ids in, token ids out, in llama.cpp's own words."""

    def posted(self, ids: list[int], until: Until, sampling: Sampling) -> tuple[str, dict[str, Any]]:
        stops = [self.endpoint.address.boundary] if until.what == "step" else []
        body = completion_body(ids, until.max_tokens, sampling, stops)
        return f"{self.endpoint.address.root}/completion", body

    def read(self, body: Mapping[str, Any]) -> Reply:
        return read_native(body)

    async def read_ids(self, said: Prompt | str) -> tuple[int, ...]:
        return await prompt_ids(self.endpoint, said)


def completion_body(ids: list[int], max_tokens: int, sampling: Sampling, stops: list[str]) -> dict[str, Any]:
    """A request for /completion. Of the server's samplers only ours run, in our order: its own
    default cuts to top-p before the temperature, which is another distribution."""
    return {
        "prompt": ids,
        "n_predict": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "samplers": ["temperature", "top_k", "top_p"],
        "stop": stops,
        "return_tokens": True,
        "n_probs": 1,  # brings the text of each token
        "stream": False,
    }


def read_native(body: Mapping[str, Any]) -> Reply:
    """An answer of /completion.

    Raises:
        Malformed: it is none.
    """
    text, ids, why = body.get("content"), body.get("tokens"), body.get("stop_type")
    if not isinstance(text, str) or not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise Malformed("no content or no tokens in it")
    shown = body.get("completion_probabilities") or []
    if not isinstance(shown, list) or not all(isinstance(p, dict) for p in shown):
        raise Malformed("completion_probabilities that are no list of objects")
    pieces = [str(p.get("token", "")) for p in shown]
    word = body.get("stopping_word") if why == "word" else None
    if word and len(pieces) < len(ids):
        # The server shows neither the stop string nor its tokens; what is missing is said by the last.
        text += word
        rest = text[len("".join(pieces)) :]
        pieces += [*[""] * (len(ids) - len(pieces) - 1), rest]
    finish = "stop" if why in ("eos", "word") else "length"
    choice = Choice(text, finish, word or None, tuple(ids), tuple(pieces))
    return Reply((choice,), counts_in(body))


async def prompt_ids(endpoint: Endpoint, prompt: Prompt | str) -> tuple[int, ...]:
    """A prompt as the server's chat template and tokenizer write it, or a text that goes on in it.

    Raises:
        PromptError: the template refused the messages.
        ModelError: the server could not be asked, or is not llama.cpp's.
    """
    root, text = endpoint.address.root, prompt if isinstance(prompt, str) else prompt.raw
    try:
        if text is None:
            assert isinstance(prompt, Prompt)
            answer = await endpoint.post(f"{root}/apply-template", {"messages": messages_of(prompt)})
            text = str(answer.get("prompt"))
        body = {"content": text, "add_special": not isinstance(prompt, str), "parse_special": True}
        tokens = (await endpoint.post(f"{root}/tokenize", body)).get("tokens")
    except Refused as refused:
        if refused.status == 400:
            raise PromptError(f"the server's chat template refused the messages: {refused.detail}") from None
        raise
    if not isinstance(tokens, list) or not tokens or not all(type(t) is int for t in tokens):
        raise ModelError(f"{root}/tokenize gives no token ids; use a server that does")
    return tuple(tokens)
