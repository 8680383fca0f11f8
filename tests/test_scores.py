"""Scores against sacrebleu's own command, against loops, and against cases that a reader can count by hand."""

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_transformer.checks import UserError
from keras_transformer.scores import (
    distinct_n,
    perplexities,
    placeholder_survival,
    placeholders,
    token_accuracy,
    token_entropy,
    translation_scores,
)

REFERENCES = [
    "The file %s could not be opened, because it does not exist.",
    "Print the version number and exit.",
    "Can't read the directory: permission denied!",
    "Show 1,024 lines at most (default: 10).",
]
TRANSLATIONS = [
    "The file %s could not be opened because it doesn't exist.",
    "Print the version and exit.",
    "Cannot read directory: permission denied!",
    "Show at most 1,024 lines (default: 10).",
]


def by_command(tmp_path):
    reference, translation = tmp_path / "reference", tmp_path / "translation"
    reference.write_text("\n".join(REFERENCES) + "\n", "utf-8")
    translation.write_text("\n".join(TRANSLATIONS) + "\n", "utf-8")
    command = [
        sys.executable,
        "-m",
        "sacrebleu",
        str(reference),
        "-i",
        str(translation),
        "-m",
        "bleu",
        "chrf",
        "-b",
        "-w",
        "6",
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def bleu_oracle(translations, references):
    """Papineni et al. 2002 on texts whose words stand between spaces, in percent."""
    log_precisions, lengths = [], (sum(len(t.split()) for t in translations), sum(len(r.split()) for r in references))
    for n in range(1, 5):
        right = total = 0
        for pair in zip(translations, references, strict=True):
            ours, theirs = ([tuple(t.split()[i : i + n]) for i in range(len(t.split()) - n + 1)] for t in pair)
            right += sum(min(ours.count(gram), theirs.count(gram)) for gram in set(ours))
            total += len(ours)
        log_precisions.append(math.log(right / total))
    return 100 * min(1.0, math.exp(1 - lengths[1] / lengths[0])) * math.exp(sum(log_precisions) / 4)


def test_bleu_and_chrf_are_those_of_sacrebleus_command(tmp_path):
    scores = translation_scores(TRANSLATIONS, REFERENCES)
    assert scores[:2] == pytest.approx(by_command(tmp_path), abs=1e-5)
    assert scores.n == 4
    assert "tok:13a" in scores.signature


def test_bleu_is_papinenis_formula():
    random.seed(3)
    words = ["red", "green", "blue", "small", "big"]
    references = [" ".join(random.choices(words, k=9)) for _ in range(40)]
    translations = [" ".join(random.choices(words, k=8)) for _ in range(40)]
    assert translation_scores(translations, references).bleu == pytest.approx(bleu_oracle(translations, references))


def test_equal_texts_score_100_also_in_a_script_without_spaces():
    texts = ["该文件无法打开。", "显示版本号并退出。"]
    assert translation_scores(texts, texts, tokenize="zh")[:2] == pytest.approx((100, 100))
    changed = ["该文件不能打开。", "显示版本号并退出。"]
    assert translation_scores(changed, texts, tokenize="zh").bleu > translation_scores(changed, texts).bleu


def test_without_sacrebleu_the_error_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(
        UserError, match=r"sacrebleu, which isn't installed. Type: pip install 'keras-transformer\[eval"
    ):
        translation_scores(["a"], ["a"])


def test_perplexity_of_a_fair_die_is_its_six_faces_whatever_the_unit():
    #  4 tokens, each with p = 1/6; 2 words; 10 bytes
    scores = perplexities(4 * math.log(6), 4, ["ab cd", "", "é€"])
    assert scores.token == pytest.approx(6)
    assert scores.word == pytest.approx(6 ** (4 / 3))
    assert scores.byte == pytest.approx(6 ** (4 / 10))
    assert 2**scores.bits_per_byte == pytest.approx(scores.byte)


def test_perplexity_of_certainty_is_one_and_of_the_hopeless_infinite():
    assert perplexities(0.0, 3, ["a b"]) == (1, 1, 1, 0)
    assert perplexities(1e5, 3, ["a b"]).token == math.inf


def test_token_accuracy_leaves_padding_out():
    labels, predicted = [[5, 6, 7, 0, 0], [8, 0, 0, 0, 0]], [[5, 9, 7, 0, 4], [8, 8, 0, 0, 1]]
    assert token_accuracy(labels, predicted) == 3 / 4
    assert token_accuracy(labels, predicted, pad_id=7) == 5 / 9


TOKENS = st.lists(st.lists(st.integers(0, 4), max_size=7), min_size=1, max_size=5).filter(any)


@given(TOKENS, st.integers(1, 3))
def test_distinct_n_and_entropy_are_those_of_loops(texts, n):
    seen, counts = [], [0] * 5
    for text in texts:
        for start, token in enumerate(text):
            counts[token] += 1
            gram = text[start : start + n]
            if len(gram) == n and gram not in seen:
                seen.append(gram)
    assert distinct_n(texts, n) == pytest.approx(len(seen) / sum(counts))
    shares = np.array([count for count in counts if count]) / sum(counts)
    assert token_entropy(texts) == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-12)


def test_distinct_and_entropy_counted_by_hand():
    texts = [["a", "b", "a", "b"], ["b", "a"]]
    assert distinct_n(texts, 1) == 2 / 6
    assert distinct_n(texts, 2) == 2 / 6
    assert distinct_n(texts, 3) == 2 / 6
    assert token_entropy(texts) == 1.0
    assert token_entropy([["a", "a"]]) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%s of %d, %5.2f and %-3ld", {"%s": 1, "%d": 1, "%5.2f": 1, "%-3ld": 1}),
        ("%1$s %2$d %(name)s %(name)s", {"%1$s": 1, "%2$d": 1, "%(name)s": 2}),
        ("100%% sure, 50 % off, %%s", {}),
        ("%dx%d", {"%d": 2}),
        ("{} {0} {name!r} {x.y[0]:>3} ${HOME}", dict.fromkeys(["{}", "{0}", "{name!r}", "{x.y[0]:>3}", "${HOME}"], 1)),
        ("<b>bold</b> <br/> 1 < 2 > 0", {"<b>": 1, "</b>": 1, "<br/>": 1}),
        ("{not a placeholder, a set}", {}),
    ],
)
def test_placeholders_are_found_and_nothing_else(text, expected):
    assert placeholders(text) == expected


def test_a_placeholder_survives_if_it_stands_there_as_often():
    sources = ["%s and %s", "<b>{0}</b>", "plain", "%d of {n}"]
    outputs = ["%s und %s", "<b>{0}", "%s", "{n} und {n} von %d"]
    #  survived: %s; <b>, {0}; %d.   lost: </b>; {n}
    assert placeholder_survival(sources, outputs) == (4, 6, 4 / 6)
    assert placeholder_survival(["plain"], ["%s"]) == (0, 0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: translation_scores(["a"], ["a", "b"]), "references has 2 texts and translations 1: .* one for each"),
        (lambda: translation_scores([], []), "references has 0 texts and translations 0: .* at least one"),
        (lambda: translation_scores("abc", ["a"] * 3), r"translations='abc' is one text: .* Use translations=\[text\]"),
        (lambda: placeholder_survival(["a"], []), "outputs has 0 texts and sources 1"),
        (lambda: perplexities(-1.0, 2, ["a"]), "negative_log_likelihood=-1.0 must be finite .* Change the sign"),
        (lambda: perplexities(math.nan, 2, ["a"]), "negative_log_likelihood=nan must be finite"),
        (lambda: perplexities(1.0, 0, ["a"]), "num_tokens=0 must be a whole number of at least 1"),
        (lambda: perplexities(1.0, 2, [" "]), "texts holds 1 texts and no word"),
        (lambda: token_accuracy([[1, 2]], [[1]]), r"labels has shape \(1, 2\) and predicted \(1, 1\): .* Cut or pad"),
        (lambda: token_accuracy([0, 0], [1, 2]), r"all 2 labels are padding \(pad_id=0\)"),
        (lambda: distinct_n([["a"]], 0), "n=0 must be a whole number of at least 1"),
        (lambda: distinct_n([[]], 1), "texts holds 1 texts without a token"),
        (lambda: token_entropy(["a b"]), r"holds strings: .* Use for example \[text.split\(\) for text in texts\]"),
    ],
)
def test_what_can_not_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
