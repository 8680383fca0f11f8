"""Texts of scripts that put no spaces between words, for what counts words. Imports no TensorFlow."""

import re
from collections.abc import Iterable

from keras_transformer.data.near_duplicates import PLACEHOLDER

# Blocks of Unicode: Thai and Lao; Myanmar; Khmer; kana; Han, also of the later planes.
_OTHERS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff]")
_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LETTER = re.compile(r"[^\W\d_]")
SHARE = 0.2  # of the letters: names stay Latin in any translation, and have more letters than a word of Han
KANA_SHARE = 0.1  # Japanese has Han, too, but hardly a sentence of it alone


def bleu_tokenizer(references: Iterable[str]) -> str:
    """How sacrebleu is to cut references into words, see `scores.translation_scores`.

    "13a" where words have spaces between them; where a fifth of the letters, placeholders left out, are of scripts
    without spaces, "zh" for Chinese, which takes each of its characters as a word, and "char" for Japanese, Thai, Lao,
    Khmer and Burmese: else a sentence would be one word, and BLEU 0 for one wrong character. Only the references
    decide, so that all systems are measured alike.
    """
    every = " ".join(PLACEHOLDER.sub(" ", reference) for reference in references)
    han, others, letters = (len(pattern.findall(every)) for pattern in (_HAN, _OTHERS, _LETTER))
    if han + others <= SHARE * letters:
        return "13a"
    return "char" if others > KANA_SHARE * (han + others) else "zh"
