"""How far an exported model is from the Keras model it came from, and the error when that is too far."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from keras_transformer import files
from keras_transformer.checks import UserError


class ParityError(UserError):
    """An export that would not agree with its Keras model. Nothing of it is left in place."""


class Parity(NamedTuple):
    """The difference between two sets of logits for the same examples."""

    max_abs_logit_error: float  # infinite if a logit is NaN or infinite
    top1_agreement: float  # share of the examples with the same best class, 0..1
    worst_example: int  # index of the example with the largest difference
    examples: int  # how many were compared


class Compared(Protocol):
    """What every comparison says, of classes or of tokens."""

    @property
    def max_abs_logit_error(self) -> float:
        """The largest difference in a logit."""
        ...

    @property
    def top1_agreement(self) -> float:
        """Share with the same likeliest class or token, 0..1."""
        ...


@dataclass(frozen=True)
class ExportReport:
    """What was written and what it lost. `dataclasses.asdict` of it goes into JSON as it is."""

    path: str
    format: str  # "saved_model", one of `export.tflite.FORMATS`, "tflite_mixed"
    bytes: int
    max_abs_logit_error: float
    top1_agreement: float
    operators: list[str]  # sorted, each once
    flex_ops: list[str]  # TensorFlow operators that a phone would need; always empty

    @classmethod
    def of(cls, path: Path | str, form: str, compared: Compared, operators: list[str], **more: Any) -> Self:
        """The report of what is at `path` by now; `more` = the fields that a subclass adds."""
        return cls(
            path=str(path),
            format=form,
            bytes=files.size_on_disk(path),
            max_abs_logit_error=compared.max_abs_logit_error,
            top1_agreement=compared.top1_agreement,
            operators=operators,
            flex_ops=[],
            **more,
        )


def compare(reference: np.ndarray, logits: np.ndarray) -> Parity:
    """Compare logits (N, C) with the reference (N, C), row by row, in float64.

    Raises:
        ValueError: if the shapes differ, or there is no row.
    """
    if reference.shape != logits.shape or reference.ndim != 2 or not reference.size:
        raise ValueError(
            f"logits of shape {logits.shape} can't be compared with reference logits of shape {reference.shape}: "
            "both must be (N, C) with at least one example. Run both models on the same texts."
        )
    difference = np.abs(logits.astype(np.float64) - reference.astype(np.float64))  # (N, C)
    # NaN compares false with every limit and would slip through.
    difference = np.where(np.isfinite(difference), difference, np.inf)
    agrees = np.argmax(logits, axis=1) == np.argmax(reference, axis=1)  # (N,)
    worst = int(np.argmax(difference.max(axis=1)))
    return Parity(float(difference.max()), float(agrees.mean()), worst, len(agrees))


def require_logits(parity: Parity, tolerance: float, path: object, fix: str) -> None:
    """Raise ParityError if a logit differs by more than `tolerance`; `fix` says which knob to turn."""
    if not parity.max_abs_logit_error <= tolerance:
        raise ParityError(
            f"{path}: would differ from its Keras model by {parity.max_abs_logit_error:.1e} in a logit "
            f"(limit {tolerance:.0e}), most at example {parity.worst_example}; the best label is the same for "
            f"{parity.top1_agreement:.1%} of {parity.examples} examples. Nothing was written. {fix}"
        )


def require_agreement(parity: Parity, min_agreement: float, path: object, fix: str) -> None:
    """Raise ParityError if fewer than `min_agreement` of the examples keep their best class, or a logit is NaN."""
    if parity.top1_agreement < min_agreement or not np.isfinite(parity.max_abs_logit_error):
        raise ParityError(
            f"{path}: would give the best label of its Keras model for {parity.top1_agreement:.1%} of "
            f"{parity.examples} examples (limit {min_agreement:.1%}); a logit differs by up to "
            f"{parity.max_abs_logit_error:.1e}, most at example {parity.worst_example}. Nothing was written. {fix}"
        )
