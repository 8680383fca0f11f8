"""Scores of texts that a model wrote, and of how well it foresees them. Plain Python and numpy: no TensorFlow.

BLEU and chrF come from sacrebleu, which the extra `eval` installs.
"""

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_transformer.checks import UserError, positive_integer

PLACEHOLDER = re.compile(
    r"""
    %%                                              # a percent sign that is meant as one: no placeholder
    | %(?:\d+\$|\(\w+\))?                           # printf: %s, %1$s, %(name)s
      [-+\#0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?          # not the flag " ": "100 % sure" has no placeholder
      (?:hh|h|ll|l|j|z|t|L)?[diouxXeEfFgGcrsap]
    | \$?\{[\w.\[\]]*(?:![rsa])?(?::[^{}]*)?\}      # {}, {0}, {name:>3}, ${name}
    | </?[A-Za-z][^<>]*>                            # <b>, </b>, <a href="x">
    """,
    re.VERBOSE,
)


class TranslationScores(NamedTuple):
    """Agreement of translations with references, over the whole corpus, from 0 to 100."""

    bleu: float  # Papineni et al. 2002, n-grams up to 4
    chrf: float  # Popovic 2015: character n-grams up to 6, beta 2
    n: int  # number of translations
    signature: str  # how sacrebleu counted BLEU (Post 2018): quote it with the number


class Perplexities(NamedTuple):
    """exp(negative log-likelihood / units): 1 is certainty. Per word and per byte, vocabularies can be compared."""

    token: float
    word: float  # words are what white space separates
    byte: float  # bytes of UTF-8
    bits_per_byte: float  # log2 of `byte`


class PlaceholderSurvival(NamedTuple):
    """How many placeholders came through."""

    survived: int  # pairs of text and placeholder that both sides have the same number of times
    total: int  # pairs of text and placeholder that the source has
    share: float  # survived / total, 1 where the sources have none


def translation_scores(
    translations: Sequence[str], references: Sequence[str], tokenize: str = "13a"
) -> TranslationScores:
    """BLEU and chrF of each translation against its reference, as sacrebleu counts them.

    Args:
        translations: plain texts, not tokenised.
        references: one for each translation.
        tokenize: how sacrebleu cuts texts into words for BLEU: "13a" where words have spaces between them, "zh" for
            Chinese, "char" for any other script without spaces.

    Raises:
        ValueError: if there are no texts, or not as many references as translations.
        UserError: if sacrebleu isn't installed.
    """
    _same_number("references", references, "translations", translations)
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise UserError(
            "BLEU and chrF are counted by the package sacrebleu, which isn't installed. "
            "Type: pip install 'keras-transformer[eval]'"
        ) from error
    bleu = BLEU(tokenize=tokenize)
    score = bleu.corpus_score(list(translations), [list(references)])
    chrf = CHRF().corpus_score(list(translations), [list(references)])
    return TranslationScores(score.score, chrf.score, len(translations), str(bleu.get_signature()))


def perplexities(negative_log_likelihood: float, num_tokens: int, texts: Sequence[str]) -> Perplexities:
    """exp(-log p(texts) / units) for three units: the model's tokens, words, and bytes.

    The sum is over all tokens of all texts, ends included, so that words and bytes pay for all that the model has
    to foresee. Beyond the largest float a perplexity is infinite.

    Args:
        negative_log_likelihood: -log p in nats, summed over the tokens.
        num_tokens: how many tokens were summed.
        texts: the same texts as strings.

    Raises:
        ValueError: if the sum is below 0 or not finite, or one of the units doesn't occur.
    """
    if not 0 <= negative_log_likelihood < math.inf:
        raise ValueError(
            f"negative_log_likelihood={negative_log_likelihood!r} must be finite and at least 0: it is the sum of "
            "-log p over the tokens. Change the sign of a log-likelihood; if it isn't finite, look at the model."
        )
    positive_integer("num_tokens", num_tokens)
    words, size = sum(len(text.split()) for text in texts), sum(len(text.encode()) for text in texts)
    if not words:
        raise ValueError(
            f"texts holds {len(texts)} texts and no word: nothing can be counted per word. "
            "Pass the texts that the tokens were made of."
        )
    per_token, per_word, per_byte = (_exp(negative_log_likelihood / units) for units in (num_tokens, words, size))
    return Perplexities(per_token, per_word, per_byte, negative_log_likelihood / size / math.log(2))


def token_accuracy(labels: npt.ArrayLike, predicted: npt.ArrayLike, pad_id: int = 0) -> float:
    """Share of the real tokens of `labels` (any shape) that `predicted` has at the same place; 0..1.

    Raises:
        ValueError: if the shapes differ, or every label is padding.
    """
    truth, guess = np.asarray(labels), np.asarray(predicted)
    if truth.shape != guess.shape:
        raise ValueError(
            f"labels has shape {truth.shape} and predicted {guess.shape}: they must be the same. "
            "Cut or pad the predictions to the length of the labels."
        )
    real = truth != pad_id
    if not real.any():
        raise ValueError(
            f"all {truth.size} labels are padding (pad_id={pad_id}): there is nothing to be right about. "
            "Leave empty batches out."
        )
    return float(np.mean(truth[real] == guess[real]))


def distinct_n(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Different n-grams / number of tokens, over all texts together: Li et al. 2016, section 5.2.

    An n-gram lies within one text. Longer outputs repeat more: compare outputs of about one size.

    Args:
        texts: the tokens of each text: words or ids, without padding.
        n: length of the n-grams; the paper gives 1 and 2.

    Raises:
        ValueError: if n isn't a whole number of at least 1, or there are no tokens.
    """
    positive_integer("n", n)
    total = _number_of_tokens(texts)
    grams = {tuple(text[start : start + n]) for text in texts for start in range(len(text) - n + 1)}
    return len(grams) / total


def token_entropy(texts: Sequence[Sequence[Hashable]]) -> float:
    """-sum p log2 p in bits, p the share of each token among those of all texts: 0 = one token over and over.

    Raises:
        ValueError: if there are no tokens.
    """
    total = _number_of_tokens(texts)
    shares = [count / total for count in Counter(chain.from_iterable(texts)).values()]
    return sum(share * math.log2(1 / share) for share in shares)


def placeholders(text: str) -> Counter[str]:
    """How often each placeholder stands in `text`: %s and its kin, {0} and its kin, and tags such as <b>."""
    return Counter(found for found in PLACEHOLDER.findall(text) if found != "%%")


def placeholder_survival(sources: Sequence[str], outputs: Sequence[str]) -> PlaceholderSurvival:
    """Share of the sources' placeholders that their outputs have exactly as often; where they stand is free.

    Each placeholder of a text counts once, however often it stands there. What only an output has doesn't count.

    Raises:
        ValueError: if there are no texts, or not as many outputs as sources.
    """
    _same_number("outputs", outputs, "sources", sources)
    survived = total = 0
    for source, output in zip(sources, outputs, strict=True):
        wanted, found = placeholders(source), placeholders(output)
        total += len(wanted)
        survived += sum(found[placeholder] == count for placeholder, count in wanted.items())
    return PlaceholderSurvival(survived, total, survived / total if total else 1.0)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _same_number(name: str, texts: Sequence[str], other_name: str, others: Sequence[str]) -> None:
    for each, value in ((name, texts), (other_name, others)):
        if isinstance(value, str):
            raise ValueError(f"{each}={value[:40]!r} is one text: the rule is a list of texts. Use {each}=[text].")
    if len(texts) != len(others) or not others:
        raise ValueError(
            f"{name} has {len(texts)} texts and {other_name} {len(others)}: the rule is one for each, and at least "
            f"one. Pass them in the same order."
        )


def _number_of_tokens(texts: Sequence[Sequence[Hashable]]) -> int:
    if isinstance(texts, str) or any(isinstance(text, str) for text in texts):
        raise ValueError(
            f"texts={str(texts)[:40]!r} holds strings: the rule is the tokens of each text, or letters would be "
            "counted. Use for example [text.split() for text in texts]."
        )
    total = sum(len(text) for text in texts)
    if not total:
        raise ValueError(f"texts holds {len(texts)} texts without a token: nothing can be counted. Pass some output.")
    return total
