"""The embedded models' tokenizer: a closed word-level vocabulary in which 0 to 99 are one token each.

Spaces carry no meaning and are put back by rule when decoding, so that `decode(encode(x)) == x`
for every text the tasks write. A newline is a token of its own: it is the step boundary.
"""

from __future__ import annotations

import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<unk>", "<user>", "<assistant>", "<eos>"]
WORDS = ["Make", "from", "leaves", "Given", "find", "Answer"]
MARKS = ["\n", ",", ".", ":", "=", "+", "-", "*", "/"]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<user>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<assistant>' + m['content'] }}"
    "{% if not (loop.last and continue_final_message) %}{{ '<eos>' }}{% endif %}"
    "{% else %}{{ raise_exception('the embedded reasoner knows user and assistant messages only') }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer both checkpoints ship."""
    vocabulary = [*SPECIAL, *MARKS, *WORDS, *string.ascii_lowercase, *map(str, range(100))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), behavior="removed"),
            pre_tokenizers.Split(Regex(r"\d+|[A-Za-z]+|\n|[^\sA-Za-z\d]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"^(?![\n,.:<])"), " "),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
