"""A vocabulary of pieces that any text can be put together from again, of any script and case. Imports no TensorFlow.

WordPiece (`tokenizer`) forgets where spaces were: "well - known" and "well-known" have the same pieces. Translation
needs them, so here the space is part of the piece that follows it (as in Kudo and Richardson 2018, SentencePiece).
A character that the vocabulary lacks is written as its UTF-8 bytes, so there is no unknown piece.
`graph_reversible` has the same vocabulary out of TensorFlow operators.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from keras_transformer import files
from keras_transformer.checks import positive_integer
from keras_transformer.data.text_pieces import MARK, normalized, runs
from keras_transformer.data.token_rows import check_texts, padded
from keras_transformer.files import ModelFileError

PAD, START, END, MASK = "[PAD]", "[START]", "[END]", "[MASK]"
SPECIAL_PIECES = (PAD, START, END, MASK)
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
FIRST_BYTE = len(SPECIAL_PIECES)
MARK_ID = FIRST_BYTE + len(BYTE_PIECES)
FORMAT = "keras_transformer reversible pieces 1"
# Longer pieces are hardly ever merged, and each character costs the graph a column.
MAX_PIECE_CHARACTERS = 20
ALPHABET_SHARE = 0.5  # of the room: a script of thousands of signs must leave some for merged pieces
_REMEMBERED_RUNS = 1 << 18


class ReversibleTokenizer:
    """Pieces that carry their spaces: `decode(encode(text))` is `normalized(text)`, for every text.

    A text is cut into runs (`text_pieces.runs`: letters, signs, single digits), so that placeholders such as
    "%(name)s" are cut alike wherever they stand; of each run the longest piece that fits is cut off, again and again.
    No text makes a special piece: "[END]" in a text is at least three pieces.
    Threads may share an instance.

    Args:
        vocab: the pieces in the order of their ids: SPECIAL_PIECES, BYTE_PIECES, the mark alone, then others, each
            of them made of single characters that are pieces too.

    Raises:
        ValueError: if the vocabulary doesn't start so, a piece stands twice, or one can't be spelled.
    """

    pad_id, start_id, end_id, mask_id = range(len(SPECIAL_PIECES))
    asked_id: int | None = None  # no piece that each text must have

    def __init__(self, vocab: Sequence[str]) -> None:
        self.vocab = list(vocab)
        self._ids = _checked_ids(self.vocab)
        self.alphabet = frozenset(piece for piece in self._ids if len(piece) == 1) - {MARK}
        self.longest_piece = max(map(len, self._ids))
        self._bytes = [b"" if index < FIRST_BYTE else _bytes_of(piece, index) for index, piece in enumerate(self.vocab)]
        self._cut_before: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """How many pieces there are; ids are 0 to `vocab_size` - 1."""
        return len(self.vocab)

    @classmethod
    def learn(cls, texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> "ReversibleTokenizer":
        """Learn at most `vocab_size` pieces from `texts` by merging what stands side by side most often.

        For translation give the texts of both languages. The same texts give the same pieces in the same order.
        The most frequent characters come first, as many as fill half the room.

        Args:
            texts: the training texts; read once, kept in memory.
            vocab_size: the upper limit. Few texts give fewer pieces.
            min_frequency: how often two pieces must stand side by side to be merged.

        Raises:
            ValueError: if `vocab_size` leaves no room, or the texts hold no word.
        """
        positive_integer("vocab_size", vocab_size)
        positive_integer("min_frequency", min_frequency)
        kept = [normalized(text) for text in texts]
        counts = Counter(character for text in kept for character in text)
        counts.pop(" ", None)
        room = int((vocab_size - MARK_ID - 1) * ALPHABET_SHARE)
        if room < 1:
            raise ValueError(
                f"vocab_size={vocab_size} has no room beside the {MARK_ID + 1} pieces that are always there "
                f"(special ones, bytes, the mark). Use vocab_size=1000 or more."
            )
        if not counts:
            raise ValueError(f"texts: none of the {len(kept)} has a word in it. Give texts to learn pieces from.")
        by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
        first = [*SPECIAL_PIECES, *BYTE_PIECES, MARK, *sorted(by_frequency[:room])]
        return cls(_merged(kept, first, vocab_size, min_frequency))

    @classmethod
    def from_json(cls, text: str) -> "ReversibleTokenizer":
        """Read what `to_json` wrote.

        Raises:
            ModelFileError: if it isn't that.
        """
        return _from_description(_parsed(text), Path("tokenizer.json"))

    @classmethod
    def load(cls, path: Path | str) -> "ReversibleTokenizer":
        """Read a file that `save` wrote, or the tokenizer.json of a folder.

        Raises:
            ModelFileError: if there is none, it can't be read, or it is another kind of tokenizer.
        """
        place = Path(path)
        place = place / "tokenizer.json" if place.is_dir() else place
        return _from_description(files.read_json(place), place)

    def to_json(self) -> str:
        """The vocabulary as one line of JSON."""
        return json.dumps({"format": FORMAT, "vocab": self.vocab}, ensure_ascii=False)

    def save(self, path: Path | str) -> None:
        """Write `to_json` to a file, which is whole or absent."""
        with files.staged(path) as staging:
            staging.write_text(self.to_json() + "\n", encoding="utf-8")

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """The ids of each text: its pieces, then [END], at most `max_length` of them in all.

        A text that is too long loses its end. One without a word gives [END] alone.

        Raises:
            TypeError: if `texts` is one string, or holds something else than strings.
            ValueError: if `max_length` has no room for a piece.
        """
        check_max_length(max_length)
        check_texts(texts)
        return [[*self._pieces(text, max_length - 1), self.end_id] for text in texts]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of `token_ids`; special pieces are left out, and bytes that aren't UTF-8.

        Raises:
            ValueError: if an id isn't in the vocabulary.
        """
        parts = []
        for index in token_ids:
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"id {index} isn't in the vocabulary: ids are 0 to {self.vocab_size - 1}.")
            parts.append(self._bytes[index])
        return b"".join(parts).decode("utf-8", "ignore").removeprefix(" ")

    def pad(self, token_ids: Sequence[Sequence[int]], length: int | None = None) -> np.ndarray:
        """(B, T) int32 with each row filled up with 0; T = `length`, or that of the longest row.

        Raises:
            ValueError: if a row is longer than `length`.
        """
        return padded(token_ids, length, self.pad_id)

    def piece_bytes(self) -> list[bytes]:
        """What each id adds to a text, as bytes: nothing for a special piece, a space for a mark."""
        return list(self._bytes)

    def _pieces(self, text: str, most: int) -> list[int]:
        ids: list[int] = []
        for run in runs(text, self.alphabet):
            ids += self._cut(run.text) if run.known else [FIRST_BYTE + byte for byte in run.text.encode()]
            if len(ids) >= most:
                break
        return ids[:most]

    def _cut(self, run: str) -> list[int]:
        if (known := self._cut_before.get(run)) is not None:
            return known
        ids, start = [], 0
        while start < len(run):
            end = min(len(run), start + self.longest_piece)
            while run[start:end] not in self._ids:  # ends: each single character is a piece
                end -= 1
            ids.append(self._ids[run[start:end]])
            start = end
        if len(self._cut_before) < _REMEMBERED_RUNS:
            self._cut_before[run] = ids
        return ids


def check_max_length(max_length: int) -> None:
    """Raise ValueError unless a text of `max_length` ids has room for a piece and [END]."""
    positive_integer("max_length", max_length)
    if max_length < 2:
        raise ValueError(f"max_length={max_length} has no room for a piece and [END]. Use max_length=2 or more.")


def _merged(texts: list[str], first: list[str], vocab_size: int, min_frequency: int) -> list[str]:
    alphabet = frozenset(first[MARK_ID + 1 :])
    # Named as special, the characters get their ids in our order; the trainer's own order differs from run to run.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=first,
        limit_alphabet=len(alphabet) + 1,
        max_token_length=MAX_PIECE_CHARACTERS,
        show_progress=False,
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    spaced = (" ".join(run.text for run in runs(text, alphabet) if run.known) for text in texts)
    learner.train_from_iterator(spaced, trainer)
    ids = learner.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def _bytes_of(piece: str, index: int) -> bytes:
    return bytes([index - FIRST_BYTE]) if index < MARK_ID else piece.replace(MARK, " ").encode()


def _checked_ids(vocab: list[str]) -> dict[str, int]:
    """The id of each piece that is made of characters: those from the mark on."""
    expected = [*SPECIAL_PIECES, *BYTE_PIECES, MARK]
    for index, piece in enumerate(expected):
        if vocab[index : index + 1] != [piece]:
            raise ValueError(
                f"vocab: piece {index} is {vocab[index] if index < len(vocab) else None!r}, not {piece!r}. The first "
                f"{len(expected)} are the special pieces, the bytes and the mark; use ReversibleTokenizer.learn(texts)."
            )
    ids = {piece: index for index, piece in enumerate(vocab) if index >= MARK_ID}
    if len(ids) != len(vocab) - MARK_ID:
        twice = next(piece for index, piece in enumerate(vocab) if index >= MARK_ID and ids[piece] != index)
        raise ValueError(f"vocab: the piece {twice!r} stands twice, so an id has no meaning. Keep one of them.")
    for piece in ids:
        missing = [character for character in piece if character not in ids]
        if missing or not piece:
            raise ValueError(f"vocab: the piece {piece!r} can't be spelled: {missing} aren't pieces. Add them.")
    return ids


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"tokenizer.json: isn't readable JSON ({error}). Take the file anew.") from error


def _from_description(description: Any, path: Path) -> ReversibleTokenizer:
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelFileError(f"{path}: isn't a file of ReversibleTokenizer.save. Give one that has format {FORMAT!r}.")
    vocab = description.get("vocab")
    if not isinstance(vocab, list) or not all(isinstance(piece, str) for piece in vocab):
        raise ModelFileError(f"{path}: its vocab isn't a list of strings. Take the file anew.")
    try:
        return ReversibleTokenizer(vocab)
    except ValueError as error:
        raise ModelFileError(f"{path}: isn't a vocabulary of reversible pieces: {error}") from error
