"""llama.cpp 0.5.0 as npm has it, compiled for each family of processors: the C functions that decoding needs.

It is found where `npm install --prefix ENVIRONMENT @node-llama-cpp/linux-x64@3.22.1` puts it, ENVIRONMENT being the
folder of this interpreter's virtual environment. The structures are those of that version's `llama.h` and `ggml.h`:
what isn't set here is kept together, as so many numbers of one type.
"""

import ctypes
import sys
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

VERSION = "0.5.0"
FOLDER = Path(sys.prefix) / "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64"
F32, F16 = 0, 1  # ggml_type
OFF, AUTO = 0, -1  # llama_flash_attn_type
ERROR = 4  # GGML_LOG_LEVEL_ERROR


class ModelOptions(ctypes.Structure):
    """llama_model_params."""

    _fields_ = (("devices", c_void_p * 2), ("kinds", c_int32 * 5), ("pointers", c_void_p * 4), ("flags", c_bool * 6))


class ContextOptions(ctypes.Structure):
    """llama_context_params."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("limits", c_uint32 * 5),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("kinds", c_int * 4),
        ("flash_attention", c_int),
        ("positions", c_float * 6),
        ("original_length", c_uint32),
        ("holes", c_float),
        ("callback", c_void_p * 2),
        ("type_k", c_int),
        ("type_v", c_int),
        ("abort", c_void_p * 2),
        ("flags", c_bool * 6),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("other", c_void_p),
    )


class Batch(ctypes.Structure):
    """llama_batch; without positions, they go on, and without `wanted`, only the last token has logits."""

    _fields_ = (("n_tokens", c_int32), ("token", POINTER(c_int32)), ("rest", c_void_p * 4), ("wanted", POINTER(c_int8)))


class PoolOptions(ctypes.Structure):
    """ggml_threadpool_params."""

    _fields_ = (
        ("processors", c_bool * 512),
        ("n_threads", c_int),
        ("priority", c_int),
        ("poll", c_uint32),
        ("strict", c_bool),
        ("paused", c_bool),
    )


@CFUNCTYPE(None, c_int, c_char_p, c_void_p)
def tell_errors(level: int, text: bytes, _: Any) -> None:
    """Say why something fails, and nothing else."""
    if level == ERROR:
        print(text.decode(), end="", file=sys.stderr)


def opened(name: str) -> ctypes.CDLL:
    """One of the libraries.

    Raises:
        ImportError: if it isn't there.
    """
    try:
        return ctypes.CDLL(str(FOLDER / name))
    except OSError as error:
        raise ImportError(f"llama.cpp: {error}. See benchmarks/peers/llama_library.py") from error


llama, ggml = opened(f"libllama.v{VERSION}.so"), opened(f"libggml.v{VERSION}.so")


def function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A C function with its types."""
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


model_options = function(llama, "llama_model_default_params", ModelOptions)
context_options = function(llama, "llama_context_default_params", ContextOptions)
load_model = function(llama, "llama_model_load_from_file", c_void_p, c_char_p, ModelOptions)
make_context = function(llama, "llama_init_from_model", c_void_p, c_void_p, ContextOptions)
memory = function(llama, "llama_get_memory", c_void_p, c_void_p)
clear = function(llama, "llama_memory_clear", None, c_void_p, c_bool)
decode = function(llama, "llama_decode", c_int32, c_void_p, Batch)
logits = function(llama, "llama_get_logits_ith", POINTER(c_float), c_void_p, c_int32)
system = function(llama, "llama_print_system_info", c_char_p)
_attach = function(llama, "llama_attach_threadpool", None, c_void_p, c_void_p, c_void_p)
_pool_options = function(ggml, "ggml_threadpool_params_default", PoolOptions, c_int)
_backend = function(ggml, "ggml_backend_reg_by_name", c_void_p, c_char_p)
_address = function(ggml, "ggml_backend_reg_get_proc_address", c_void_p, c_void_p, c_char_p)

function(llama, "llama_log_set", None, c_void_p, c_void_p)(tell_errors, None)
function(ggml, "ggml_backend_load_all_from_path", None, c_char_p)(str(FOLDER).encode())


def keep_threads(context: int, threads: int) -> None:
    """Give a context threads that stay, as the engine's own programs do: else each token starts some anew."""
    make = CFUNCTYPE(c_void_p, POINTER(PoolOptions))(_address(_backend(b"CPU"), b"ggml_threadpool_new"))
    pool = make(ctypes.byref(_pool_options(threads)))
    _attach(context, pool, pool)
