"""Write a checkpoint of the embedded architecture as a GGUF file, for llama.cpp and what is built on it.

    python -m recipes.export_gguf --out runs/reasoner-f32.gguf
    python -m recipes.export_gguf --type q8_0 --out runs/reasoner-q8_0.gguf

The vocabulary is written twice. As `tokenizer.huggingface.json`, a key of the GGUF specification, it
is the checkpoint's own tokenizer to the letter; `gguf:PATH` reads that one. llama.cpp cannot run it,
so it gets a unigram ("t5") model that gives the same ids for every text the tasks write: a word or
number is the piece with a space before it, marks have none, and a normaliser puts spaces where the
checkpoint's tokenizer splits without any. What llama.cpp writes differs in one way: a line after the
first begins with a space, where the checkpoint's decoder writes none.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from itscale.embedded import REASONER

TYPES = {"f32": gguf.GGMLQuantizationType.F32, "q8_0": gguf.GGMLQuantizationType.Q8_0}
_FILE_TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
SPACED = {"+": " + ", "-": " - ", "*": " * ", "/": " / ", "=": " = "}
FOLLOWED = {"\n": "\n ", ",": ", ", ".": ". ", ":": ": "}
"""Marks that are written onto what precedes them."""
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}

Floats = npt.NDArray[np.float32]


def export(folder: Path, out: Path, kind: str = "f32") -> None:
    """Write the Llama checkpoint in `folder` to `out`, its matrices as `kind` (a key of TYPES)."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    _add_shape(writer, config)
    writer.add_file_type(_FILE_TYPES[kind])
    _add_tokenizer(writer, folder, config)
    writer.add_string("itscale.json", (folder / "itscale.json").read_text())
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _interleaved(values, config["head_dim"])
        stored = TYPES[kind] if values.ndim == 2 else TYPES["f32"]
        writer.add_tensor(_tensor_name(name), gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("itscale embedded reasoner")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("t5")
    writer.add_token_list([word if word in special else _piece(word) for word in words])
    writer.add_token_scores([0.0 if word in special else -1.0 for word in words])
    writer.add_token_types([_token_type(word, special) for word in words])
    writer.add_precompiled_charsmap(charsmap(SPACED | FOLLOWED))
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_unk_token_id(words.index("<unk>"))
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    writer.add_string(gguf.Keys.Tokenizer.HF_JSON, (folder / "tokenizer.json").read_text())


def _piece(word: str) -> str:
    return word if word in FOLLOWED else f"\u2581{word}"


def _token_type(word: str, special: set[str]) -> gguf.TokenType:
    if word == "<unk>":
        return gguf.TokenType.UNKNOWN
    return gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL


def charsmap(replacements: dict[str, str]) -> bytes:
    """A SentencePiece normaliser that replaces single ASCII characters.

    The format is the one of `precompiled_charsmap`: the size of a double array in bytes, the array,
    the replacements with a NUL behind each. A child of a node lies at the node's base XOR its byte,
    carries the byte as its label, and a leaf's own base points to the offset of its replacement.
    """
    root, values = 256, 512  # where the root's children and the leaves' values lie
    array = [0] * (values + 128)
    array[0] = root << 10
    texts = b""
    for character, text in replacements.items():
        byte = ord(character)
        node, value = root ^ byte, values + byte
        array[node] = (node ^ value) << 10 | 1 << 8 | byte
        array[value] = 1 << 31 | len(texts)
        texts += text.encode() + b"\0"
    return struct.pack("<I", 4 * len(array)) + struct.pack(f"<{len(array)}I", *array) + texts


def _interleaved(matrix: Floats, head_dim: int) -> Floats:
    """Rows of a query or key projection in llama.cpp's order: the two halves of each head alternate."""
    heads = matrix.reshape(-1, 2, head_dim // 2, matrix.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(matrix.shape))


def _tensor_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=REASONER, help="checkpoint folder")
    parser.add_argument("--type", choices=sorted(TYPES), default="f32", help="how matrices are stored")
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    export(options.model, options.out, options.type)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
