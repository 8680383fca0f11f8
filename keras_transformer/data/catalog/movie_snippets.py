"""Sentiment of film-review snippets: 10,070 rated sentences, and 13,098 unrated ones of other kinds.

Source: the ground truth of Hutto and Gilbert 2014 (VADER, ICWSM), MIT licence, fetched by `data.assets`. A line is
id, mean rating by 20 people from -4 to 4, text. `snippets()` is plain Python; the tfds builder below it gives the same.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from keras_transformer.data import assets
from keras_transformer.data.text import Table

CLASS_NAMES = ("negative", "positive")
# A rating nearer to 0 says that the raters disagreed, or that there is no sentiment.
SMALLEST_RATING = 0.5
TEST_SHARE = 0.2
_CITATION = """\
@inproceedings{hutto2014vader,
  title = {VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text},
  author = {Hutto, C.J. and Gilbert, Eric},
  booktitle = {Eighth International Conference on Weblogs and Social Media (ICWSM-14)},
  year = {2014}
}"""
_MEMBER = "hutto_ICWSM_2014/{}_GroundTruth.txt"
_LABELLED_PART = "movieReviewSnippets"
_UNLABELLED_PARTS = ("tweets", "amazonReviewSnippets", "nytEditorialSnippets")


class Snippets(NamedTuple):
    """The fixed split; `unlabelled.labels` is None. No test text is also in `train` or `unlabelled`."""

    train: Table
    test: Table
    unlabelled: Table


def snippets(tell: assets.Tell = assets.tell_on_stderr) -> Snippets:
    """The film-review snippets, fetched once and then read from the cache.

    The split depends on the texts alone, never on a seed: the fifth of them with the smallest sha256 is the test set.
    Texts that differ in case, spaces or punctuation only are the same text, and the first one stays.

    Returns:
        8,056 training rows and 2,014 test rows labelled "negative" or "positive" (50.5% negative in the test set),
        and 13,098 unlabelled texts: tweets, sentences of product reviews and of newspaper editorials.

    Raises:
        UserError: if the data isn't cached and can't be fetched.
    """
    parts = _read_parts(assets.snippet_archive(tell))
    labelled: dict[str, tuple[str, str]] = {}
    for rating, text in parts[_LABELLED_PART]:
        if abs(rating) >= SMALLEST_RATING:
            labelled.setdefault(_essence(text), (text, CLASS_NAMES[rating > 0]))
    by_hash = sorted(labelled, key=lambda essence: hashlib.sha256(essence.encode()).digest())
    held_out = set(by_hash[: round(TEST_SHARE * len(by_hash))])
    unlabelled = [text for part in _UNLABELLED_PARTS for _, text in parts[part] if _essence(text) not in held_out]
    return Snippets(
        train=_table([row for essence, row in labelled.items() if essence not in held_out]),
        test=_table([row for essence, row in labelled.items() if essence in held_out]),
        unlabelled=Table(unlabelled, None),
    )


def _table(rows: list[tuple[str, str]]) -> Table:
    return Table([text for text, _ in rows], [label for _, label in rows])


def _essence(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _read_parts(archive: Path) -> dict[str, list[tuple[float, str]]]:
    """(rating, text) rows of each part, read in memory: nothing is unpacked."""
    parts = {}
    with tarfile.open(archive) as package:
        for part in (_LABELLED_PART, *_UNLABELLED_PARTS):
            stream = package.extractfile(_MEMBER.format(part))
            if stream is None:
                raise tarfile.ReadError(f"{_MEMBER.format(part)} isn't a file")
            # The bytes are UTF-8, all of them: as latin-1 they'd read "clichÃ©s".
            lines = stream.read().decode("utf-8").splitlines()
            parts[part] = [_rating_and_text(line) for line in lines]
    return parts


def _rating_and_text(line: str) -> tuple[float, str]:
    _, rating, text = line.split("\t")
    return float(rating), text


class MovieSnippets(tfds.core.GeneratorBasedBuilder):
    """`tfds.load("movie_snippets")`: splits train, test and unlabelled (label -1), features text and label.

    tfds has nothing to download: the texts come out of the cache of `data.assets`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=list(CLASS_NAMES))}
            ),
            supervised_keys=("text", "label"),
            homepage="https://github.com/cjhutto/vaderSentiment",
            citation=_CITATION,
            license="MIT",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {name: self._generate_examples(table) for name, table in snippets()._asdict().items()}

    def _generate_examples(self, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
        labels: Sequence[str | int] = table.labels or [-1] * len(table)
        for row, (text, label) in enumerate(zip(table.texts, labels, strict=True)):
            yield row, {"text": text, "label": label}
