"""English to German: 26,267 messages of programs and paragraphs of manual pages, with a fixed split without leaks.

Sources: the gettext catalogues of eleven Python packages (BSD, MIT, Apache-2.0), and Debian's manual pages with their
translations (GPL-3 or later), fetched by `data.assets`. `english_german()` is plain Python; the tfds builder below it
gives the same.
"""

import gzip
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from keras_transformer.data import assets
from keras_transformer.data.catalog.manual_assets import ENGLISH, ENGLISH_FOLDER, GERMAN, GERMAN_FOLDER
from keras_transformer.data.catalog.message_assets import CATALOGS
from keras_transformer.data.gettext_catalogs import messages
from keras_transformer.data.manual_pages import UNREADABLE, paragraph_pairs
from keras_transformer.data.near_duplicates import essence, held_out_groups, near_duplicate_groups
from keras_transformer.data.text import Pairs

TEST_ROWS, VALIDATION_ROWS = 1200, 600
LARGEST_HELD_OUT_GROUP = 4
_OTHER_LANGUAGES = "django/conf/locale/"


class EnglishGerman(NamedTuple):
    """The fixed split. No test or validation pair has a near-duplicate in another part."""

    train: Pairs
    validation: Pairs
    test: Pairs


def english_german(tell: assets.Tell = assets.tell_on_stderr) -> EnglishGerman:
    """The pairs of `message_pairs` and `manual_page_pairs`, split so that nothing like a test pair is taught.

    Two pairs are near-duplicates if their English or their German words are the same but for case, digits,
    placeholders and punctuation, or if five or more English words differ in one (`near_duplicate_groups`); so are two
    that a third one links. Whole groups go to one side: those with the smallest sha256 to the test set, then to
    validation. A group of more than 4 pairs ("Unable to retrieve the ...") is always taught. So the split depends on
    the texts alone, never on a seed. Memory of single phrases ("SEE ALSO") doesn't help in the test set: a phrase that
    stands there is in no other part.

    Returns:
        24,467 training, 600 validation and 1,200 test pairs; 43% of each are of manual pages, and a source has 13 words
        on average. It takes some seconds.

    Raises:
        UserError: if the data isn't cached and can't be fetched.
    """
    both = dict.fromkeys([*_rows(message_pairs(tell)), *_rows(manual_page_pairs(tell))])
    sources, targets = [source for source, _ in both], [target for _, target in both]
    groups = near_duplicate_groups(sources, targets)
    held_out = held_out_groups(groups, sources, TEST_ROWS + VALIDATION_ROWS, LARGEST_HELD_OUT_GROUP)
    test = held_out_groups(np.where(held_out, groups, -1), sources, TEST_ROWS, LARGEST_HELD_OUT_GROUP)
    rows = list(both)
    return EnglishGerman(_pairs(rows, ~held_out), _pairs(rows, held_out & ~test), _pairs(rows, test))


def message_pairs(tell: assets.Tell = assets.tell_on_stderr) -> Pairs:
    """Messages of eleven programs in English and German, each pair once: see `english_german` for a split.

    White space is one space; a pair without a letter on both sides, or with the same text on both, is left out.
    """
    found: list[tuple[str, str]] = []
    for asset in CATALOGS:
        folder = assets.fetch(asset, tell)
        for member in asset.members:
            if "/de" in member.path or not member.path.startswith(_OTHER_LANGUAGES):
                found += messages(folder / member.name)
    return _cleaned(found)


def messages_in(language: str, tell: assets.Tell = assets.tell_on_stderr) -> list[str]:
    """Django's own messages in "ar", "he", "hi", "ja", "ko", "ru", "th" or "zh_Hans": lines of other scripts.

    Raises:
        KeyError: if it is another language.
    """
    django = CATALOGS[0]
    paths = {member.path.removeprefix(_OTHER_LANGUAGES).split("/")[0]: member.name for member in django.members}
    return [translation for _, translation in messages(assets.fetch(django, tell) / paths[language])]


def manual_page_pairs(tell: assets.Tell = assets.tell_on_stderr) -> Pairs:
    """Paragraphs of Linux manual pages in English and German, each pair once; cleaned as `message_pairs` is."""
    english = {name: page for asset in ENGLISH for name, page in _pages(asset, ENGLISH_FOLDER, tell)}
    german = {name: page for asset in GERMAN for name, page in _pages(asset, GERMAN_FOLDER, tell)}
    both = (paragraph_pairs(english[name], german[name]) for name in english if name in german)
    return _cleaned(pair for pairs in both for pair in pairs)


def _pages(asset: assets.Asset, folder: str, tell: assets.Tell) -> Iterator[tuple[str, str]]:
    """(name below `folder`, text) of each page that is no link, read in memory: nothing is unpacked."""
    path: Path = assets.fetch(asset, tell) / asset.members[0].name
    with tarfile.open(path) as package:
        for info in package:
            stream = package.extractfile(info) if info.isfile() and info.name.startswith(folder) else None
            if stream is not None and info.name.endswith(".gz"):
                page = gzip.decompress(stream.read()).decode("utf-8", "replace")
                yield info.name.removeprefix(folder), page


def _cleaned(found: Iterable[tuple[str, str]]) -> Pairs:
    rows: dict[tuple[str, str], None] = {}
    for pair in found:
        source, target = (" ".join(text.split()) for text in pair)
        if source != target and UNREADABLE not in source + target and essence(source) and essence(target):
            rows.setdefault((source, target))
    return _pairs(list(rows), np.ones(len(rows), bool))


def _rows(pairs: Pairs) -> Iterator[tuple[str, str]]:
    return zip(pairs.sources, pairs.targets, strict=True)


def _pairs(rows: list[tuple[str, str]], kept: np.ndarray) -> Pairs:
    chosen = [rows[row] for row in np.flatnonzero(kept)]
    return Pairs([source for source, _ in chosen], [target for _, target in chosen])


class EnglishGermanPairs(tfds.core.GeneratorBasedBuilder):
    """`tfds.load("english_german_pairs")`: splits train, validation and test, features source and target.

    tfds has nothing to download: the texts come out of the cache of `data.assets`.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict({"source": tfds.features.Text(), "target": tfds.features.Text()}),
            supervised_keys=("source", "target"),
            license="BSD, MIT, Apache-2.0 (messages); GPL-3.0-or-later (manual pages)",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {name: self._generate_examples(pairs) for name, pairs in english_german()._asdict().items()}

    def _generate_examples(self, pairs: Pairs) -> Iterator[tuple[int, dict[str, str]]]:
        for row, (source, target) in enumerate(_rows(pairs)):
            yield row, {"source": source, "target": target}
