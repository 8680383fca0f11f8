"""Load a model that writes texts, in any form. Imports no TensorFlow before a form needs it."""

from pathlib import Path

from keras_transformer import bundle, places
from keras_transformer.checks import positive_integer
from keras_transformer.data.saved_tokenizers import reversible_pieces
from keras_transformer.export.tensorflow_threads import use_threads
from keras_transformer.files import ModelFileError
from keras_transformer.generation.writer import GREEDY, Decoding, LogLikelihood, Progress, Writer
from keras_transformer.tasks import LANGUAGE_MODEL, TRANSLATE

__all__ = ["GREEDY", "Decoding", "LogLikelihood", "Progress", "Writer", "load"]


def load(path: Path | str, *, jit_compile: bool = False, threads: int | None = None, xnnpack: bool = True) -> Writer:
    """Load a run folder of a translator or a language model, or the `.tflite` file or SavedModel it was exported to.

    A `.tflite` file runs on LiteRT alone, one text after the other. A SavedModel draws no
    texts, and has one width of beam.

    Args:
        path: of the folder or the file.
        jit_compile: True to compile the writing of a run folder's model with XLA: that takes a while for each new
            shape of batch, and each token takes less. A seed draws other words then.
        threads: how many may work on one text; None = the runtime's choice. TensorFlow takes it only before its first
            operation in a process.
        xnnpack: False to run a `.tflite` file with LiteRT's own kernels, many times slower: for comparisons.

    Raises:
        ModelFileError: if it is none, or damaged. The message names it.
        UserError: if TensorFlow already runs in this process with another number of threads, or `xnnpack` is False and
            it is no `.tflite` file.
        ValueError: if an exported file was to be compiled.
    """
    if threads is not None:
        positive_integer("threads", threads)
    found = places.find(path)
    if found.task not in (TRANSLATE, LANGUAGE_MODEL):
        raise ModelFileError(
            f"{path}: was trained for {found.task!r}, and it takes {TRANSLATE!r} or {LANGUAGE_MODEL!r} to write texts. "
            "Ask a classifier with `keras-transformer predict`."
        )
    if not xnnpack:
        places.require_tflite(found)
    if found.attached is None:
        use_threads(threads)
        return _load_bundle(found.path, found.task, jit_compile)
    if jit_compile:
        raise ValueError(
            f"jit_compile=True with {path}: an exported file is run as it is. "
            "Load the run folder it was made of, or leave jit_compile out."
        )
    if found.form == places.TFLITE:
        from keras_transformer.generation import lite_writers

        return lite_writers.load(found.path, found.attached, threads, xnnpack)
    use_threads(threads)
    from keras_transformer.generation import served_writers

    return served_writers.load(found.path, found.attached)


def _load_bundle(folder: Path, task: str, jit_compile: bool) -> Writer:
    from keras_transformer.generation import keras_writers

    loaded = bundle.load(folder, task=task)
    make = keras_writers.Translator if task == TRANSLATE else keras_writers.Continuer
    tokenizer = reversible_pieces(loaded.tokenizer, folder)
    return make(loaded.model, tokenizer, loaded.manifest.max_length, jit_compile=jit_compile)
