"""What a classifier starts from: MiniLM, a Hugging Face folder, an older run folder, or nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.data import assets
from keras_transformer.data.saved_tokenizers import word_pieces
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.models import BASE, SMALL, TINY, TextClassifier
from keras_transformer.pretrained import bert
from keras_transformer.recipes.plan import FINE_TUNING, FROM_NOTHING, Effort

SIZES = {"tiny": TINY, "small": SMALL, "base": BASE}
VOCAB_SIZE = 8000  # pieces learned from the training texts
FRESH_MAX_LENGTH = 512

Tell = Callable[[str], None]


class Start(NamedTuple):
    """A tokenizer, a way to build the model, and how much training that wants."""

    tokenizer: WordPiece
    build: Callable[[int, str], TextClassifier]  # (number of classes, dtype policy) -> model
    max_length: int  # the longest input that the model can take
    effort: Effort


def choose(init: str, size: str | None, texts: Sequence[str], tell: Tell) -> Start:
    """Return the start that `--init` and `--size` name.

    Args:
        init: "none", "minilm", or a folder: a run folder of this package, or Hugging Face's layout of a BERT.
        size: "tiny", "small" or "base" for a model from nothing; weights that exist have a size of their own.
        texts: out of which a vocabulary is learned where there is none.
        tell: says what takes time.

    Raises:
        UserError: if the folder is neither, or a size was given with weights that have one.
    """
    if init == "none":
        return fresh(size or "small", WordPiece.learn(texts, VOCAB_SIZE))
    if size is not None:
        raise UserError(f"--size {size}: the weights of --init {init} have a size of their own. Leave --size out.")
    if init == "minilm":
        return _hugging_face(assets.minilm_folder(tell))
    folder = Path(init)
    if (folder / bundle.MANIFEST).is_file():
        return _older_run(folder)
    if (folder / "config.json").is_file():
        return _hugging_face(folder)
    raise UserError(
        f"--init {init}: is neither a run folder nor Hugging Face's folder of a BERT (config.json, "
        "model.safetensors, vocab.txt). Use minilm, none, or such a folder."
    )


def fresh(size: str, tokenizer: WordPiece) -> Start:
    """A model of random weights."""

    def build(num_classes: int, policy: str) -> TextClassifier:
        return TextClassifier(
            tokenizer.vocab_size, num_classes, max_length=FRESH_MAX_LENGTH, dtype=policy, **SIZES[size].arguments()
        )

    return Start(tokenizer, build, FRESH_MAX_LENGTH, FROM_NOTHING)


def _hugging_face(folder: Path) -> Start:
    def build(num_classes: int, policy: str) -> TextClassifier:
        return TextClassifier.from_pretrained(folder, num_classes, dtype=policy)

    return Start(WordPiece.load(folder), build, bert.read_config(folder).max_length, FINE_TUNING)


def _older_run(folder: Path) -> Start:
    older = bundle.load(folder, task="classify")

    def build(num_classes: int, policy: str) -> TextClassifier:
        config = {**older.model.get_config(), "num_classes": num_classes, "dtype": policy}
        model = TextClassifier.from_config(config)
        kept = {weight.path: weight for weight in older.model.weights}
        for weight in model.weights:
            if weight.path in kept and weight.shape == kept[weight.path].shape:
                weight.assign(kept[weight.path])
        return model

    return Start(word_pieces(older.tokenizer, folder), build, older.model.max_length, FINE_TUNING)
