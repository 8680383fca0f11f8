"""llama.cpp, a C++ engine for language models alone: the same weights in a file of its own format.

Words: the numbers, "float32" or "int8" (its Q8_0: 8 bits, and a float16 scale for each 32 weights), and the room, for
how many tokens its memory of keys and values is made. In float32 that memory is float32 too, without flash attention,
which would make it float16 in each step; beside Q8_0 it is float16 and flash, as the engine has it by itself.
"""

import ctypes
import tempfile
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from peers import llama_library as library
from peers.decoding_weights import DECODER, EPSILON, Weights, load
from peers.process import timed

PACKAGES = ("gguf",)
OTHERS = {"llama.cpp": library.VERSION}
TYPES = {"float32": gguf.GGMLQuantizationType.F32, "int8": gguf.GGMLQuantizationType.Q8_0}
CACHES = {"float32": (library.F32, library.OFF), "int8": (library.F16, library.AUTO)}
PARTS = {
    "attn_norm": "attention_norm",
    "attn_output": "attention/output",
    "ffn_norm": "feed_forward_norm",
    "ffn_up": "feed_forward/inner",
    "ffn_down": "feed_forward/outer",
}


class LlamaCpp:
    """The model that was loaded last.

    Args:
        numbers: "float32" or "int8".
        room: tokens of a text.
        threads: for a prompt and for a token.
    """

    def __init__(self, numbers: str, room: int, threads: int) -> None:
        self.numbers, self.room, self.threads = numbers, room, threads

    def load(self, kind: str, size: dict[str, Any], weights: str) -> dict[str, Any]:
        """Write the model in its own format and load that."""
        if kind != DECODER:
            raise ValueError(f"{kind}: only a {DECODER} is measured here")
        values, self.vocab_size = load(weights), size["vocab_size"]
        options = library.context_options()
        options.n_ctx = options.n_batch = self.room
        options.n_threads = options.n_threads_batch = self.threads
        options.type_k, options.flash_attention = CACHES[self.numbers]
        options.type_v = options.type_k
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write(path, size, tensors(size["num_layers"], values), self.numbers)
            model = library.load_model(str(path).encode(), library.model_options())
        self.context = model and library.make_context(model, options)
        if not self.context:
            raise ValueError(f"llama.cpp refuses the model in {self.numbers}; it says why on standard error")
        library.keep_threads(self.context, self.threads)
        return {"parameters": sum(value.size for value in values.values())}

    def run(self, token_ids: list[list[int]], beams: int, new_tokens: int) -> dict[str, Any]:
        """Write `new_tokens` after the one row."""
        if len(token_ids) != 1 or beams != 1:
            raise ValueError(f"{len(token_ids)} rows, {beams} beams: only one row is written here, greedily")

        told = []

        def generate() -> list[int]:
            start = time.perf_counter()
            found = [int(np.argmax(self.begin(token_ids[0])))]
            told.append(time.perf_counter() - start)
            while len(found) < new_tokens:
                found.append(int(np.argmax(self.read(found[-1:]))))
            return found

        seconds, found = timed(generate)
        return {"seconds": seconds, "prompt_seconds": told[0], "token_ids": [found]}

    def logits(self, token_ids: list[int]) -> dict[str, Any]:
        """Those of the token behind `token_ids`."""
        return {"logits": self.begin(token_ids).tolist()}

    def begin(self, token_ids: list[int]) -> np.ndarray:
        """Forget all, and read a prompt: the logits (V,) behind it."""
        library.clear(library.memory(self.context), False)
        return self.read(token_ids)

    def read(self, token_ids: list[int]) -> np.ndarray:
        """Read more tokens: the logits (V,) behind them, which the next call overwrites."""
        batch = library.Batch(n_tokens=len(token_ids), token=(ctypes.c_int32 * len(token_ids))(*token_ids))
        if code := library.decode(self.context, batch):
            raise ValueError(f"llama_decode answers {code}")
        return np.ctypeslib.as_array(library.logits(self.context, -1), (self.vocab_size,))


def tensors(num_layers: int, values: Weights) -> Weights:
    """GPT-2's, by their names in a GGUF file; matrices as (out, in). The token table is the output layer too."""
    found = {"token_embd.weight": values["tokens/table"], "position_embd.weight": values["positions/table"]}
    found |= layer("output_norm", "final_norm", values)
    for index in range(num_layers):
        theirs, ours = f"blk.{index}", f"decoder_{index}"
        for there, here in PARTS.items():
            found |= layer(f"{theirs}.{there}", f"{ours}/{here}", values)
        three = [layer("", f"{ours}/attention/{part}", values) for part in ("query", "key", "value")]
        for name in three[0]:
            found[f"{theirs}.attn_qkv{name}"] = np.concatenate([one[name] for one in three])
    return found


def layer(theirs: str, ours: str, values: Weights) -> Weights:
    """A dense layer or a LayerNorm under their names."""
    if f"{ours}/gamma" in values:
        return {f"{theirs}.weight": values[f"{ours}/gamma"], f"{theirs}.bias": values[f"{ours}/beta"]}
    return {f"{theirs}.weight": values[f"{ours}/kernel"].T, f"{theirs}.bias": values[f"{ours}/bias"]}


def write(path: Path, size: dict[str, Any], found: Weights, numbers: str) -> None:
    """A GGUF file without a vocabulary: what is read and written are ids. Vectors and positions stay float32."""
    file = gguf.GGUFWriter(path, "gpt2")
    file.add_tokenizer_model("none")
    file.add_vocab_size(size["vocab_size"])
    file.add_context_length(size["max_length"])
    file.add_embedding_length(size["model_dim"])
    file.add_block_count(size["num_layers"])
    file.add_feed_forward_length(size["inner_dim"])
    file.add_head_count(size["num_heads"])
    file.add_layer_norm_eps(EPSILON)
    for name, value in found.items():
        exact = value.ndim == 1 or name == "position_embd.weight"
        kind = gguf.GGMLQuantizationType.F32 if exact else TYPES[numbers]
        file.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(value), kind), raw_dtype=kind)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def answers(numbers: str, room: str, threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    peer = LlamaCpp(numbers, int(room), int(threads))
    return {"load": peer.load, "run": peer.run, "logits": peer.logits}
