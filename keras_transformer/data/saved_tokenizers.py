"""Whichever of our tokenizers a file holds. Imports no TensorFlow."""

import json
from pathlib import Path

from keras_transformer.data.reversible_tokenizer import FORMAT, ReversibleTokenizer
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.files import ModelFileError


def load_tokenizer(path: Path | str) -> WordPiece | ReversibleTokenizer:
    """Read a tokenizer.json of either kind, a vocab.txt, or a folder that has one of them.

    Raises:
        ModelFileError: if there is none, it can't be read, or it is another kind of tokenizer.
    """
    place = Path(path)
    described = place / "tokenizer.json" if place.is_dir() else place
    if described.suffix != ".json" or not described.is_file():
        return WordPiece.load(place)
    try:
        return tokenizer_from_json(described.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{described}: can't be read ({error}). Take the file anew.") from error
    except ModelFileError as error:
        raise ModelFileError(f"{described.parent}: {error}") from error


def tokenizer_from_json(text: str) -> WordPiece | ReversibleTokenizer:
    """Read what `to_json` of either kind wrote.

    Raises:
        ModelFileError: if it is neither; byte-level BPE and unigram are named.
    """
    try:
        description = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"tokenizer.json: isn't readable JSON ({error}). Take the file anew.") from error
    if isinstance(description, dict):
        if description.get("format") == FORMAT:
            return ReversibleTokenizer.from_json(text)
        model = description.get("model")
        kind = model.get("type", "WordPiece") if isinstance(model, dict) else "WordPiece"
        if kind != "WordPiece":
            raise ModelFileError(
                f"tokenizer.json: is of kind {kind}, and only WordPiece and our reversible pieces are supported. "
                "Learn a vocabulary with ReversibleTokenizer.learn(texts)."
            )
    return WordPiece.from_json(text)


def word_pieces(tokenizer: object, place: Path | str) -> WordPiece:
    """Return the tokenizer of a classifier, which `place` holds.

    Raises:
        ModelFileError: if it is of another kind, which no classifier of ours has.
    """
    if not isinstance(tokenizer, WordPiece):
        raise ModelFileError(f"{place}: a classifier reads word pieces, and it has others. Train it again.")
    return tokenizer


def reversible_pieces(tokenizer: object, place: Path | str) -> ReversibleTokenizer:
    """Return the tokenizer of a model that writes texts, which `place` holds.

    Raises:
        ModelFileError: if it is of another kind: word pieces forget where spaces were.
    """
    if not isinstance(tokenizer, ReversibleTokenizer):
        raise ModelFileError(f"{place}: its pieces forget where spaces were, so it can't write texts. Train it again.")
    return tokenizer
