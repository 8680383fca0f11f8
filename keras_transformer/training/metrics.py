"""Scores of a classifier in plain numpy, so that a `.tflite` file can be scored without TensorFlow."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class ClassificationScores(NamedTuple):
    """How well predicted classes agree with the labels; each score lies in 0..1."""

    accuracy: float  # share of rows whose prediction is the label
    recall: float  # mean over the classes of: rows of the class that were found / rows of the class
    f1: float  # mean over the classes of: 2 * right / (rows labelled so + rows predicted so)
    n: int  # number of rows


def classification_scores(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> ClassificationScores:
    """Accuracy, macro recall and macro F1 of class numbers against class numbers.

    Macro means the plain mean over the classes that occur in `labels` or in `predicted`: each weighs the
    same, however rare. A class that was predicted but never labelled has recall 0/0, which counts as 0, and
    F1 0. These are scikit-learn's rules with `average="macro", zero_division=0`.

    Args:
        labels: (N,) integers >= 0, the truth. An unlabelled row (-1) has no place here.
        predicted: (N,) integers >= 0.

    Raises:
        ValueError: if there are no rows, the shapes aren't the same (N,), or a class is no integer >= 0.
    """
    truth, guess = _class_numbers("labels", labels), _class_numbers("predicted", predicted)
    if truth.shape != guess.shape:
        raise ValueError(
            f"labels has {truth.size} rows and predicted has {guess.size}: they must be of one length. "
            "Score the predictions of the very rows that the labels belong to."
        )
    classes = np.unique(np.concatenate([truth, guess]))
    right = np.array([np.sum((truth == c) & (guess == c)) for c in classes])
    labelled = np.array([np.sum(truth == c) for c in classes])
    chosen = np.array([np.sum(guess == c) for c in classes])
    return ClassificationScores(
        accuracy=float(np.mean(truth == guess)),
        recall=float(np.mean(right / np.maximum(labelled, 1))),  # nothing labelled: nothing right, so 0 / 1
        f1=float(np.mean(2 * right / (labelled + chosen))),
        n=int(truth.size),
    )


def _class_numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    numbers = np.asarray(values)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(
            f"{name} has shape {numbers.shape}: the rule is one class number a row, and at least one row. "
            f"Use for example {name}=[0, 1, 1]."
        )
    if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0:
        raise ValueError(
            f"{name} holds {numbers.dtype} values from {numbers.min()} to {numbers.max()}: class numbers are "
            f"integers of at least 0. Leave out unlabelled rows (-1) and take the argmax of scores."
        )
    return numbers.astype(np.int64)
