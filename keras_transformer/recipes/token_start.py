"""What a translator or a language model starts from, and how small a student is that nobody gave a size."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.compression import hindrance, inherit
from keras_transformer.data.epochs import Epochs
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.saved_tokenizers import reversible_pieces
from keras_transformer.models.generating import Generating
from keras_transformer.recipes.settings import Settings
from keras_transformer.recipes.start import SIZES, VOCAB_SIZE

INHERITED_FROM = 8  # batches that show what flows in the teacher: some thousand tokens


class TokenStart(NamedTuple):
    """A vocabulary, and the model that it came with, if any."""

    tokenizer: ReversibleTokenizer
    older: keras.Model | None  # in float32


def choose(settings: Settings, texts: Iterable[str]) -> TokenStart:
    """Return what `--init` names: "none" learns a vocabulary from `texts`, an older run folder has one.

    Raises:
        UserError: if it is neither, or a size was given with weights that have one.
        ModelFileError: if the run folder is damaged, or of another task.
    """
    init = settings.init or "none"
    if init == "none":
        return TokenStart(ReversibleTokenizer.learn(texts, VOCAB_SIZE), None)
    if settings.size is not None:
        raise UserError(
            f"--size {settings.size}: the weights of --init {init} have a size of their own. Leave --size out."
        )
    if not (Path(init) / bundle.MANIFEST).is_file():
        raise UserError(
            f"--init {init}: is no run folder, and to {settings.task!r} a model starts from one or from nothing. "
            "Use --init none, or a folder that `train` wrote."
        )
    older = bundle.load(init, task=settings.task)
    return TokenStart(reversible_pieces(older.tokenizer, init), older.model)


def check_student(settings: Settings) -> None:
    """Raise UserError for an `--init` that a student of these tasks can't have."""
    if settings.init not in (None, "none"):
        raise UserError(
            f"--init {settings.init}: only a classifier is cut out of its teacher; to {settings.task!r} a student "
            "starts from its teacher's weights. Leave --init out."
        )


def student_size(size: str | None, teacher: keras.Model) -> dict[str, Any]:
    """The arguments of a student: those of `size`, or half the layers and half the width of its teacher.

    That is a quarter of the teacher's weights or fewer where layers have most of them, and half of a token table.
    Heads keep their width where there are several.
    """
    if size is not None:
        return SIZES[size].arguments()
    heads = max(1, teacher.num_heads // 2)
    width = max(2, teacher.model_dim // 2)
    head_dim = min(teacher.head_dim, max(2, width // heads // 2 * 2))  # even: sines and cosines come in pairs
    halves = {name: max(1, getattr(teacher, name) // 2) for name in ("num_layers", "inner_dim")}
    decoder = getattr(teacher, "num_decoder_layers", None)
    more = {} if decoder is None else {"num_decoder_layers": max(1, decoder // 2)}
    return {**halves, **more, "num_heads": heads, "head_dim": head_dim, "model_dim": width}


def start_from_teacher(student: Generating, teacher: Generating, batches: Epochs, tell: Callable[[str], None]) -> None:
    """Give a student the weights of its teacher, as far as they fit into it; see `compression.inherit`.

    Args:
        student: its weights are set, unless they can't be; then it says why, and they stay random.
        teacher: in float32.
        batches: what the student will learn from.
        tell: takes a line for the user.
    """
    reason = hindrance(student, teacher)
    if reason is not None:
        tell(f"The student starts from random weights, not from its teacher's: {reason}")
        return
    inherit(student, teacher, [inputs for inputs, *_ in itertools.islice(batches.batches(0), INHERITED_FROM)])
