"""The tokenizer in a GGUF file: the checkpoint's own where the file carries it, llama.cpp's otherwise.

`tokenizer.huggingface.json` is a key of the GGUF specification under which a converter may leave
the original tokenizer. Where it is, prompts are the checkpoint's to the letter; elsewhere llama.cpp
reads them with the vocabulary it has.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itscale.errors import ModelError, OptionError, PromptError
from itscale.models.gguf.library import Weights

__all__ = ["GGUFTokenizer"]

ORIGINAL = "tokenizer.huggingface.json"


@dataclass(frozen=True, slots=True)
class _Ids:
    input_ids: list[int]


class GGUFTokenizer:
    """What `PromptReader` asks of a tokenizer, and text from ids.

    Raises:
        OptionError: jinja2 or tokenizers are not installed.
        ModelError: the file's tokenizer cannot be read.
    """

    def __init__(self, weights: Weights, *, original: bool = True) -> None:
        self._weights = weights
        self._template = _template(weights)
        library, vocabulary = weights.library, weights.vocabulary
        self._specials = {
            "bos_token": weights.spelling(library.llama_vocab_bos(vocabulary)),
            "eos_token": weights.spelling(library.llama_vocab_eos(vocabulary)),
        }
        text = weights.text_under(ORIGINAL) if original else None
        self._original = None if text is None else _original(text)

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> _Ids:
        if self._original is not None:
            return _Ids(list(self._original.encode(text, add_special_tokens=add_special_tokens).ids))
        return _Ids(self._weights.tokenize(text, add_special=add_special_tokens))

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> str:
        """The conversation as the model was trained to read it; `tokenize` must be False.

        Raises:
            PromptError: the file has no chat template.
        """
        if self._template is None:
            raise PromptError("the GGUF file has no chat template; give the prompt as raw text")
        assert options.pop("tokenize") is False, "text alone is given here"
        return str(self._template.render(messages=messages, **self._specials, **options))

    def text_of(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """What the newest token ids say, given some before them."""
        if self._original is not None:
            return str(self._original.decode([*before, *ids]))[len(self._original.decode(before)) :]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in before:  # the first bytes of a character may lie in the step before
            decoder.decode(self._weights.piece(token))
        decoder.errors = "replace"
        return decoder.decode(b"".join(map(self._weights.piece, ids)), final=True)


def _original(text: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise OptionError(
            f'this GGUF file needs tokenizers: pip install "itscale[gguf]" ({error})'
        ) from error
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise ModelError(
            f"the tokenizer in the GGUF file cannot be read ({error}); export it again"
        ) from error


def _template(weights: Weights) -> Any:
    """The file's chat template, in the sandbox and with the helpers that transformers gives it."""
    text = weights.text_under("tokenizer.chat_template")
    if text is None:
        return None
    try:
        import jinja2.ext
        import jinja2.sandbox
    except ImportError as error:
        raise OptionError(f'chat templates need jinja2: pip install "itscale[gguf]" ({error})') from error
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(text)
    except jinja2.TemplateError as error:
        raise ModelError(
            f"the chat template in the GGUF file is broken ({error}); export it again"
        ) from error


def _refuse(message: str) -> None:
    raise PromptError(message)
