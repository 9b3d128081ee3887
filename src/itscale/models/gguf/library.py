"""llama.cpp through llama-cpp-python's bindings: weights, vocabulary, and a cache with sequences.

Thin: every function is one or two calls of llama.h. Arrays go in and out as NumPy's. Nothing is
sampled here.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itscale.errors import ModelError, OptionError

__all__ = ["MOST_SEQUENCES", "Context", "Weights"]

MOST_SEQUENCES = 256
"""LLAMA_MAX_SEQ, a constant of llama.cpp."""
CPU_PASS = 63
"""Tokens in one pass on a CPU. From 64 on, llama.cpp's attention there works on tiles of the cache and
computes what other sequences hold only to mask it; below, it skips that."""
_TEXT_BYTES = 256

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def _bindings() -> Any:
    """The module `llama_cpp`, quiet.

    Raises:
        OptionError: it is not installed, or was built for another machine.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # a broken shared library is not an ImportError
        raise OptionError(f'gguf models need llama.cpp: pip install "itscale[gguf]" ({error})') from error
    llama_cpp.llama_log_set(_QUIET, None)
    return llama_cpp


def _drop(level: int, text: bytes, data: Any) -> None:
    """What llama.cpp would print is dropped."""


_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_drop)
"""Kept here, as llama.cpp keeps its address."""


class Weights:
    """A GGUF file's weights and vocabulary."""

    def __init__(self, file: Path) -> None:
        """Raises OptionError without llama-cpp-python, ModelError if the file cannot be used."""
        self.library = library = _bindings()
        library.llama_backend_init()
        parameters = library.llama_model_default_params()
        parameters.n_gpu_layers = 10_000  # all of them, where the build has a GPU to put them on
        self.model = library.llama_model_load_from_file(os.fsencode(file), parameters)
        if not self.model:
            raise ModelError(
                f"llama.cpp cannot load {file}; it is no GGUF file, incomplete, or newer than the "
                "installed llama-cpp-python"
            )
        self.vocabulary = library.llama_model_get_vocab(self.model)
        self._refuse_unsuited(file)
        self.n_vocabulary = int(library.llama_vocab_n_tokens(self.vocabulary))
        self.trained_context = int(library.llama_model_n_ctx_train(self.model))
        self.whole_floats = int(library.llama_model_ftype(self.model)) == library.LLAMA_FTYPE_ALL_F32
        self.cell_type = int(library.GGML_TYPE_F32 if self.whole_floats else library.GGML_TYPE_F16)
        """How keys and values are stored: as exactly as the weights."""

    def _refuse_unsuited(self, file: Path) -> None:
        library = self.library
        recurrent = library.llama_model_is_recurrent(self.model) or library.llama_model_is_hybrid(self.model)
        if recurrent or not library.llama_model_has_decoder(self.model):
            what = (
                "keeps one state a sequence, which cannot be forked at a token"
                if recurrent
                else "is no decoder"
            )
            self.close()
            raise ModelError(f"the model in {file} {what}; serve it with llama-server and use openai:@URL")

    @property
    def bytes_per_cell(self) -> int:
        """Keys and values of one token in all layers."""
        library, model = self.library, self.model
        own = self.text_under(f"{self.text_under('general.architecture')}.attention.key_length")
        width = int(own) if own else library.llama_model_n_embd(model) // library.llama_model_n_head(model)
        numbers = 2 * library.llama_model_n_layer(model) * library.llama_model_n_head_kv(model) * width
        return int(numbers * (4 if self.whole_floats else 2))

    def text_under(self, key: str) -> str | None:
        """A value of the file's metadata as text; None if it has no such key."""
        size = self.library.llama_model_meta_val_str(self.model, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self.library.llama_model_meta_val_str(self.model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids of a text, special ones spelled out in it included."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        n = self.library.llama_tokenize(self.vocabulary, raw, len(raw), ids, room, add_special, True)
        if n < 0:
            raise ModelError(
                f"llama.cpp made more than {room} tokens of {len(raw)} bytes; please report this"
            )
        return list(ids[:n])

    def piece(self, token: int) -> bytes:
        """What one token says; special ones say nothing."""
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        n = self.library.llama_token_to_piece(self.vocabulary, token, buffer, _TEXT_BYTES, 0, False)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = self.library.llama_token_to_piece(self.vocabulary, token, buffer, -n, 0, False)
        return buffer.raw[:n]

    def spelling(self, token: int) -> str:
        """A token as a chat template writes it; empty for none (-1)."""
        if token < 0:
            return ""
        return str(self.library.llama_vocab_get_text(self.vocabulary, token).decode("utf-8", "replace"))

    def ends(self, token: int) -> bool:
        """Whether a token ends the answer."""
        return bool(self.library.llama_vocab_is_eog(self.vocabulary, token))

    def close(self) -> None:
        """Free the weights."""
        if self.model:
            self.library.llama_model_free(self.model)
            self.model = None


class Context:
    """A cache of `cells` tokens shared by up to `sequences` sequences, and the forward pass over it."""

    def __init__(self, weights: Weights, *, cells: int, sequences: int, batch: int) -> None:
        """Raises ModelError if there is not enough memory."""
        self._library = library = weights.library
        self._n_vocabulary = weights.n_vocabulary
        parameters = library.llama_context_default_params()
        parameters.n_ctx = max(cells, sequences)  # llama.cpp aborts below
        parameters.n_seq_max = sequences
        parameters.n_batch = batch
        parameters.n_ubatch = batch if library.llama_supports_gpu_offload() else CPU_PASS
        parameters.n_threads = parameters.n_threads_batch = max(1, (os.cpu_count() or 1) // 2)
        parameters.kv_unified = True  # one buffer, in which a fork is a mark
        parameters.swa_full = True  # a sliding window that dropped tokens could not be forked before it
        # Flash attention rounds keys and values to half floats, whatever they are stored as.
        parameters.flash_attn_type = (
            library.LLAMA_FLASH_ATTN_TYPE_DISABLED
            if weights.whole_floats
            else library.LLAMA_FLASH_ATTN_TYPE_ENABLED
        )
        parameters.type_k = parameters.type_v = weights.cell_type
        parameters.no_perf = True
        self._context = library.llama_init_from_model(weights.model, parameters)
        if not self._context:
            raise ModelError(
                f"llama.cpp cannot make a context of {cells} tokens; lower kv_memory_bytes or context"
            )
        self._memory = library.llama_get_memory(self._context)
        self.batch = batch
        self._ids = np.zeros(batch, np.int32)
        self._positions = np.zeros(batch, np.int32)
        self._ones = np.ones(batch, np.int32)
        self._slots = np.zeros(batch, np.int32)
        self._wanted = np.zeros(batch, np.int8)
        # seq_id is an array of pointers, one a token, each to that token's only sequence.
        self._pointers = self._slots.ctypes.data + 4 * np.arange(batch, dtype=np.uintp)

    def decode(self, tokens: Ints, positions: Ints, slots: Ints, wanted: npt.NDArray[np.bool_]) -> Floats:
        """Compute tokens, all of shape (B,) with B at most `batch`: logits (wanted, vocabulary), float32.

        Raises:
            ModelError: llama.cpp refused.
        """
        n = len(tokens)
        self._ids[:n], self._positions[:n] = tokens, positions
        self._slots[:n], self._wanted[:n] = slots, wanted
        library = self._library
        batch = library.llama_batch()
        batch.n_tokens = n
        batch.token = self._ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.pos = self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.n_seq_id = self._ones.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.seq_id = self._pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        batch.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        status = library.llama_decode(self._context, batch)
        if status:
            raise ModelError(f"llama.cpp could not compute {n} tokens (status {status}); please report this")
        shape = (int(wanted.sum()), self._n_vocabulary)
        if not shape[0]:
            return np.empty(shape, np.float32)
        return np.ctypeslib.as_array(library.llama_get_logits(self._context), shape).copy()

    def fork(self, source: int, target: int, n: int) -> None:
        """Let sequence `target` see the first `n` tokens of `source`."""
        self._library.llama_memory_seq_cp(self._memory, source, target, 0, n)

    def drop(self, slot: int) -> None:
        """Sequence `slot` sees nothing any more."""
        self._library.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def close(self) -> None:
        """Free the cache."""
        if self._context:
            self._library.llama_free(self._context)
            self._context = None
