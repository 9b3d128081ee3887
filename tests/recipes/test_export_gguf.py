"""The GGUF file: what can be checked without llama.cpp (`make test-servers` runs it)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import normalizers
from transformers import AutoTokenizer

from itscale.embedded import REASONER
from itscale.tasks import Chain, Countdown
from recipes.export_gguf import FOLLOWED, SPACED, charsmap, export


def read(file: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(file)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, gguf.GGUFReader]:
    """The embedded reasoner in both types."""
    folder = tmp_path_factory.mktemp("gguf")
    for kind in ("f32", "q8_0"):
        export(REASONER, folder / f"{kind}.gguf", kind)
    return {kind: read(folder / f"{kind}.gguf") for kind in ("f32", "q8_0")}


def test_the_normaliser_separates_what_the_checkpoint_separates():
    """SentencePiece's own reader of the format puts the spaces where they belong."""
    normaliser = normalizers.Precompiled(charsmap(SPACED | FOLLOWED))
    assert normaliser.normalize_str("a=5+3,b\n7:z.") == "a = 5 + 3, b\n 7: z. "
    assert normaliser.normalize_str("Make 45") == "Make 45"


def test_every_task_prompt_is_spelled_by_the_pieces(exported: dict[str, gguf.GGUFReader]):
    """Prompts and solutions of both tasks, cut into the longest pieces, have the checkpoint's ids."""
    fields = exported["f32"].fields
    pieces = fields["tokenizer.ggml.tokens"].contents()
    ids = {piece: i for i, piece in enumerate(pieces)}
    normaliser = normalizers.Precompiled(bytes(fields["tokenizer.ggml.precompiled_charsmap"].contents()))
    tokenizer = AutoTokenizer.from_pretrained(REASONER)
    texts = [p.prompt.question for task in (Countdown(), Chain()) for p in task.problems(100)]
    for text in [*texts, "9 + 3 = 12: leaves 5, 12\n12 - 5 = 7: leaves 7\nAnswer: 7"]:
        spaced = re.sub(" +", " ", normaliser.normalize_str(f" {text}")).rstrip(" ")
        words = spaced.replace(" ", "\u2581")
        found = []
        while words:
            piece = max((p for p in ids if words.startswith(p)), key=len)
            found.append(ids[piece])
            words = words[len(piece) :]
        assert found == tokenizer(text, add_special_tokens=False).input_ids, text


def test_the_file_carries_the_checkpoint_s_tokenizer_template_and_facts(
    exported: dict[str, gguf.GGUFReader],
):
    """To the letter, so that `gguf:PATH` reads prompts as `hf:PATH` does."""
    for reader in exported.values():
        for key, file in (
            ("tokenizer.huggingface.json", "tokenizer.json"),
            ("tokenizer.chat_template", "chat_template.jinja"),
            ("itscale.json", "itscale.json"),
        ):
            assert reader.fields[key].contents() == (REASONER / file).read_text()


def test_quantised_weights_are_the_float_ones_rounded(exported: dict[str, gguf.GGUFReader]):
    """Within half a step of 1/127 of each block's largest value (scales are half floats); norms stay."""
    floats = {t.name: t for t in exported["f32"].tensors}
    config = json.loads((REASONER / "config.json").read_text())
    assert len(floats) == 2 + 9 * config["num_hidden_layers"]
    for tensor in exported["q8_0"].tensors:
        exact = floats[tensor.name].data
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if exact.ndim == 1:
            assert np.array_equal(values, exact)
            continue
        largest = np.abs(exact.reshape(-1, 32)).max(axis=1)[:, None]
        assert np.all(np.abs(values - exact).reshape(-1, 32) <= largest / 127 * 0.57)
