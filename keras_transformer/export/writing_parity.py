"""How far what an exported model writes is from what its Keras model writes, and the error when that is too far."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_transformer.export.parity import ExportReport, ParityError, compare

Logits = Callable[[Sequence[int], Sequence[int]], np.ndarray]
"""(prompt, written ids) -> logits (T, V) float32 from which a model would choose each of the T written ids."""


@dataclass(frozen=True)
class WritingReport(ExportReport):
    """What was written and what it lost; `top1_agreement` counts tokens, each chosen after the same beginning."""

    same_texts: float  # share of the texts that are written alike to the end, 0..1
    texts: int  # how many were compared


class WritingParity(NamedTuple):
    """The difference between two models on the same texts, token by token."""

    max_abs_logit_error: float  # infinite if a logit is NaN or infinite
    largest_logit: float  # of the reference, as an absolute value
    top1_agreement: float  # share of the tokens, 0..1
    same_texts: float
    worst_text: int  # index of the text with the largest difference
    texts: int
    tokens: int

    def allowed(self, tolerance: float) -> float:
        """`tolerance` of the largest logit, or of 1: float32 has seven digits, whatever stands before the point."""
        return tolerance * max(1.0, self.largest_logit)


def compare_writing(
    reference: Logits, logits: Logits, examples: Iterable[tuple[list[int], list[int]]]
) -> WritingParity:
    """Compare two models on prompts and on what Keras wrote for them.

    Both choose each token after Keras' own tokens before it. So a text on which they agree everywhere is the text
    that the other model writes by itself.
    """
    parities, largest = [], 0.0
    for prompt, written in examples:
        wanted = reference(prompt, written)  # (T, V)
        largest = max(largest, float(np.abs(wanted).max()))
        parities.append(compare(wanted, logits(prompt, written)))
    errors = [one.max_abs_logit_error for one in parities]
    tokens = sum(one.examples for one in parities)
    return WritingParity(
        max_abs_logit_error=max(errors),
        largest_logit=largest,
        top1_agreement=sum(one.top1_agreement * one.examples for one in parities) / tokens,
        same_texts=float(np.mean([one.top1_agreement == 1.0 for one in parities])),
        worst_text=int(np.argmax(errors)),
        texts=len(parities),
        tokens=tokens,
    )


def require_token_logits(parity: WritingParity, tolerance: float, path: object, fix: str) -> None:
    """Raise ParityError if a logit differs by more than `tolerance` of the largest; `fix` says which knob to turn."""
    limit = parity.allowed(tolerance)
    if not parity.max_abs_logit_error <= limit:
        raise ParityError(
            f"{path}: would differ from its Keras model by {parity.max_abs_logit_error:.1e} in a logit "
            f"(limit {limit:.0e}), most at text {parity.worst_text}; {_agreement(parity)}. Nothing was written. {fix}"
        )


def require_token_agreement(parity: WritingParity, min_agreement: float, path: object, fix: str) -> None:
    """Raise ParityError if fewer than `min_agreement` of the tokens stay the likeliest, or a logit is NaN."""
    if parity.top1_agreement < min_agreement or not np.isfinite(parity.max_abs_logit_error):
        raise ParityError(
            f"{path}: would choose otherwise than its Keras model (limit {min_agreement:.1%}): {_agreement(parity)}; "
            f"a logit differs by up to {parity.max_abs_logit_error:.1e}, most at text {parity.worst_text}. "
            f"Nothing was written. {fix}"
        )


def differing_texts(
    reference: Logits, examples: Sequence[tuple[list[int], list[int]]], found: Sequence[list[int]], tolerance: float
) -> Iterator[int]:
    """Yield the places of the texts where `found` has other ids than Keras wrote, but for ties.

    A tie: at the first difference Keras' own logits of the two ids are within twice `tolerance`, which is what
    rounding may move them towards each other.
    """
    for place, ((prompt, written), other) in enumerate(zip(examples, found, strict=True)):
        if other == written:
            continue
        pairs = list(zip(written, other, strict=False))
        first = next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        if first is None:
            yield place  # one stopped, the other went on, after the same tokens
            continue
        logits = reference(prompt, written)[first]
        if abs(logits[written[first]] - logits[other[first]]) > 2 * tolerance:
            yield place


def _agreement(parity: WritingParity) -> str:
    return (
        f"the likeliest token is the same for {parity.top1_agreement:.1%} of {parity.tokens} tokens, and all of them "
        f"in {parity.same_texts:.0%} of {parity.texts} texts"
    )
