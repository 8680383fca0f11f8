"""WordPiece: text into the ids that a BERT-style model reads, and back. Imports no TensorFlow.

Wu et al. 2016, section 4.1; the words are cut as Devlin et al. 2019 do it. The work is done by `tokenizers`.
`graph_tokenizer` has the same vocabulary out of TensorFlow operators.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from keras_transformer import files
from keras_transformer.checks import positive_integer
from keras_transformer.data.token_rows import check_texts, padded
from keras_transformer.data.well_formed import well_formed
from keras_transformer.files import ModelFileError

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_PIECES = (PAD, UNKNOWN, START, END, MASK)
NEEDED_PIECES = (PAD, UNKNOWN, START, END)
CONTINUATION = "##"
# A longer word is one unknown piece, as in BERT.
MAX_WORD_CHARACTERS = 100
# Each character costs two pieces (at the start of a word and inside), so they take half the vocabulary at most.
MAX_ALPHABET_SHARE = 0.25


class WordPiece:
    """A WordPiece vocabulary, with the rules that cut a text into words before it applies.

    Text never makes a special piece: "[SEP]" in a text is the three words "[", "sep", "]". Hugging Face's tokenizers
    read it as the separator itself, so that a text could pad or end itself; that is the one place where the ids differ.
    With `reads_mask` there is one exception, "[MASK]", for a model that is asked what it hides.
    An instance isn't changed by any call, so threads may share it.

    Args:
        vocab: the pieces in the order of their ids; "##" marks one that continues a word. [PAD] comes first;
            [UNK], [CLS] and [SEP] are somewhere.
        lowercase: whether text is lower-cased first.
        strip_accents: whether accents are taken off; None = where text is lower-cased.
        reads_mask: whether "[MASK]" in a text, in capitals, is the piece of a hidden token. It is for a model that is
            asked what stands there: what is exported with it refuses a text that has none.

    Raises:
        ValueError: if a piece is missing or stands twice.
    """

    def __init__(
        self,
        vocab: Sequence[str],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        reads_mask: bool = False,
    ) -> None:
        self.vocab = list(vocab)
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.reads_mask = reads_mask
        ids = {piece: index for index, piece in enumerate(self.vocab)}
        _check_vocab(self.vocab, (*NEEDED_PIECES, MASK) if reads_mask else NEEDED_PIECES)
        self.pad_id = ids[PAD]
        self.unknown_id, self.start_id, self.end_id = ids[UNKNOWN], ids[START], ids[END]
        self.asked_id = ids[MASK] if reads_mask else None  # that each text must have; None = none
        self._tokenizer = Tokenizer(
            models.WordPiece(
                vocab=ids,
                unk_token=UNKNOWN,
                max_input_chars_per_word=MAX_WORD_CHARACTERS,
                continuing_subword_prefix=CONTINUATION,
            )
        )
        self._tokenizer.normalizer = _normalizer(lowercase, strip_accents)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        if reads_mask:
            self._tokenizer.add_tokens([AddedToken(MASK, normalized=False, special=False)])

    @property
    def vocab_size(self) -> int:
        """How many pieces there are; ids are 0 to `vocab_size` - 1."""
        return len(self.vocab)

    @classmethod
    def learn(
        cls, texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2, lowercase: bool = True
    ) -> "WordPiece":
        """Learn at most `vocab_size` pieces from `texts`; the same texts give the same pieces in the same order.

        The most frequent characters come first, as many as fill half the vocabulary; then what is merged out of them.

        Args:
            texts: the training texts; read once, kept in memory.
            vocab_size: the upper limit. Few texts give fewer pieces.
            min_frequency: how often two pieces must stand side by side to be merged.
            lowercase: whether text is lower-cased, and loses its accents, first.

        Raises:
            ValueError: if `vocab_size` leaves no room, or the texts hold no word.
        """
        positive_integer("vocab_size", vocab_size)
        positive_integer("min_frequency", min_frequency)
        kept = [well_formed(text) for text in texts]
        normalizer = _normalizer(lowercase, None)
        counts = Counter(character for text in kept for character in normalizer.normalize_str(text))
        counts.pop(" ", None)
        room = int((vocab_size - len(SPECIAL_PIECES)) * MAX_ALPHABET_SHARE)
        if room < 1:
            raise ValueError(
                f"vocab_size={vocab_size} has no room for {len(SPECIAL_PIECES)} special pieces and an alphabet. "
                f"Use vocab_size=1000 or more."
            )
        if not counts:
            raise ValueError(f"texts: none of the {len(kept)} has a word in it. Give texts to learn pieces from.")
        by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
        alphabet = sorted(by_frequency[:room])
        # Named as special, the characters get their ids in our order. The trainer would take them in the order
        # of a hash table, which differs from run to run, and break ties of the merges by it.
        named = [*SPECIAL_PIECES, *alphabet, *(CONTINUATION + character for character in alphabet)]
        learner = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        learner.normalizer, learner.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=named,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        learner.train_from_iterator(kept, trainer)
        ids = learner.get_vocab()
        return cls(sorted(ids, key=ids.__getitem__), lowercase=lowercase)

    @classmethod
    def load(cls, path: Path | str) -> "WordPiece":
        """Read a tokenizer.json, a vocab.txt (a piece a line), or a Hugging Face folder that has one of them.

        A vocab.txt says nothing of the case: in a folder tokenizer_config.json does, else text is lower-cased.

        Raises:
            ModelFileError: if there is none, it can't be read, or it isn't BERT's kind of WordPiece.
        """
        place = Path(path)
        if place.is_dir():
            found = [place / name for name in ("tokenizer.json", "vocab.txt") if (place / name).is_file()]
            if not found:
                raise ModelFileError(
                    f"{place}: has neither tokenizer.json nor vocab.txt. Give a folder or file with a vocabulary."
                )
            return cls.load(found[0])
        if place.suffix == ".json":
            return _from_description(files.read_json(place), place)
        return _from_vocab_file(place)

    @classmethod
    def from_json(cls, text: str) -> "WordPiece":
        """Read what `to_json` wrote, or the content of another tokenizer.json of this kind.

        Raises:
            ModelFileError: if it isn't that.
        """
        try:
            description = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ModelFileError(f"tokenizer.json: isn't readable JSON ({error}). Take the file anew.") from error
        return _from_description(description, Path("tokenizer.json"))

    def to_json(self) -> str:
        """The tokenizer in Hugging Face's tokenizer.json format, without a line end inside."""
        return self._tokenizer.to_str()

    def save(self, path: Path | str) -> None:
        """Write `to_json` to a file, which is whole or absent."""
        with files.staged(path) as staging:
            staging.write_text(self.to_json() + "\n", encoding="utf-8")

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """The ids of each text: [CLS], its pieces, [SEP], at most `max_length` of them in all.

        A text that is too long loses its end. One without a word gives [CLS] [SEP]. A lone surrogate is dropped.

        Raises:
            TypeError: if `texts` is one string, or holds something else than strings.
            ValueError: if `max_length` has no room for a piece.
        """
        check_max_length(max_length)
        check_texts(texts)
        clean = [well_formed(text) for text in texts]
        if len(clean) == 1:  # no threads are woken for one text
            encodings = [self._tokenizer.encode(clean[0], add_special_tokens=False)]
        else:
            encodings = self._tokenizer.encode_batch_fast(clean, add_special_tokens=False)
        kept = max_length - 2
        return [[self.start_id, *encoding.ids[:kept], self.end_id] for encoding in encodings]

    def pad(self, token_ids: Sequence[Sequence[int]], length: int | None = None) -> np.ndarray:
        """(B, T) int32 with each row filled up with 0; T = `length`, or that of the longest row.

        Raises:
            ValueError: if a row is longer than `length`.
        """
        return padded(token_ids, length, self.pad_id)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The words of `token_ids`, a space between them; special pieces are left out, but [UNK] stays.

        Where no word was unknown or cut off, this is `" ".join(words(text))`.

        Raises:
            ValueError: if an id isn't in the vocabulary.
        """
        words: list[str] = []
        silent = {self.pad_id, self.start_id, self.end_id}
        for index in token_ids:
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"id {index} isn't in the vocabulary: ids are 0 to {self.vocab_size - 1}.")
            if index in silent:
                continue
            piece = self.vocab[index]
            if piece.startswith(CONTINUATION) and words and piece != CONTINUATION:
                words[-1] += piece.removeprefix(CONTINUATION)
            else:
                words.append(piece)
        return " ".join(words)

    def words(self, text: str) -> list[str]:
        """The words of `text` that the vocabulary is applied to: normalised, punctuation on its own."""
        normalized = self._tokenizer.normalizer.normalize_str(well_formed(text))
        return [word for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]


def check_max_length(max_length: int) -> None:
    """Raise ValueError unless a text of `max_length` ids has room for [CLS], a piece and [SEP]."""
    positive_integer("max_length", max_length)
    if max_length < 3:
        raise ValueError(f"max_length={max_length} has no room for [CLS], a piece and [SEP]. Use max_length=3 or more.")


def _normalizer(lowercase: bool, strip_accents: bool | None) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )


def _check_vocab(vocab: list[str], needed: Sequence[str]) -> None:
    ids = {piece: index for index, piece in enumerate(vocab)}
    if len(ids) != len(vocab):
        twice = next(piece for index, piece in enumerate(vocab) if ids[piece] != index)
        raise ValueError(f"vocab: the piece {twice!r} stands twice, so an id has no meaning. Keep one of them.")
    for piece in needed:
        if piece not in ids:
            raise ValueError(f"vocab: the piece {piece} is missing among {len(vocab)}. Add it: every text needs it.")
    if ids[PAD] != 0:
        raise ValueError(f"vocab: {PAD} has id {ids[PAD]}, but 0 is padding everywhere here. Put {PAD} first.")


def _from_vocab_file(path: Path) -> WordPiece:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: there is no such file. Check the path.") from error
    except (UnicodeDecodeError, OSError) as error:
        raise ModelFileError(f"{path}: can't be read as UTF-8 text ({error}). Give a vocab.txt.") from error
    config = path.with_name("tokenizer_config.json")
    settings = files.read_json(config) if config.is_file() else {}
    if not isinstance(settings, dict):
        raise ModelFileError(f"{config}: isn't a JSON object. Take the file anew.")
    vocab = lines[:-1] if lines[-1] == "" else lines
    try:
        return WordPiece(
            vocab,
            lowercase=bool(settings.get("do_lower_case", True)),
            strip_accents=settings.get("strip_accents"),
        )
    except ValueError as error:
        raise ModelFileError(f"{path}: isn't a WordPiece vocabulary: {error}") from error


def _from_description(description: Any, path: Path) -> WordPiece:
    """Take the vocabulary and the case out of a parsed tokenizer.json; what we don't do is refused, not ignored."""
    try:
        model, normalizer = description["model"], description["normalizer"]
        _check_settings(description, path)
        ids = dict(model["vocab"])
        vocab = sorted(ids, key=ids.__getitem__)
        if [ids[piece] for piece in vocab] != list(range(len(vocab))):
            raise ModelFileError(f"{path}: its ids aren't 0 to {len(vocab) - 1}, each once. Take the file anew.")
        for token in description.get("added_tokens") or []:
            if ids.get(token["content"]) != token["id"]:
                raise ModelFileError(
                    f"{path}: the added token {token['content']!r} (id {token['id']}) isn't in the vocabulary, "
                    "which isn't supported. Use a tokenizer whose tokens are all in model.vocab."
                )
        return WordPiece(
            vocab,
            lowercase=normalizer["lowercase"],
            strip_accents=normalizer["strip_accents"],
            reads_mask=_reads_mask(description),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path}: isn't a tokenizer.json of BERT's kind of WordPiece ({type(error).__name__}: {error}). "
            "Give the tokenizer of a BERT-style model."
        ) from error
    except ModelFileError:
        raise
    except ValueError as error:
        raise ModelFileError(f"{path}: isn't a WordPiece vocabulary: {error}") from error


def _reads_mask(description: dict[str, Any]) -> bool:
    """Whether [MASK] alone is an added token, of ordinary text; Hugging Face's own files have it among others."""
    added = description.get("added_tokens") or []
    return [(token["content"], token.get("special", True)) for token in added] == [(MASK, False)]


def _check_settings(description: dict[str, Any], path: Path) -> None:
    model, normalizer = description["model"], description["normalizer"]
    expected = [
        ("model.type", model.get("type", "WordPiece"), "WordPiece"),
        ("model.unk_token", model["unk_token"], UNKNOWN),
        ("model.continuing_subword_prefix", model["continuing_subword_prefix"], CONTINUATION),
        ("model.max_input_chars_per_word", model["max_input_chars_per_word"], MAX_WORD_CHARACTERS),
        ("normalizer.type", normalizer["type"], "BertNormalizer"),
        ("normalizer.clean_text", normalizer["clean_text"], True),
        ("normalizer.handle_chinese_chars", normalizer["handle_chinese_chars"], True),
        ("pre_tokenizer.type", description["pre_tokenizer"]["type"], "BertPreTokenizer"),
    ]
    for name, found, needed in expected:
        if found != needed:
            raise ModelFileError(
                f"{path}: {name} is {found!r}, and only {needed!r} is supported. "
                "Give the tokenizer of a BERT-style model."
            )
