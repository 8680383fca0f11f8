"""The common start of every export: check that things belong together, and ask the Keras model for its answers."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.export.attachments import Attachments, Part, Settings
from keras_transformer.export.keras_runner import SINGLE, KerasRunner, computes_in_float32, in_float32, with_policy
from keras_transformer.export.requirements import Limits, check_classes, check_texts, limits
from keras_transformer.export.token_batches import Run, run_in_batches
from keras_transformer.version import __version__

BATCH_SIZE = 32


class Prepared(NamedTuple):
    """A model ready for export, with its own answers to the examples."""

    model: keras.Model  # computes in float32
    tokenizer: WordPiece
    labels: list[str]
    limits: Limits
    max_length: int
    fixed_length: int | None  # the one input length that the model takes; None = any
    token_ids: list[list[int]]
    reference: np.ndarray  # (N, C) logits of the examples

    def run(self, run: Run, batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return the logits (N, C) that another form of the model gives for the examples."""
        return run_in_batches(
            run,
            self.token_ids,
            self.tokenizer,
            num_classes=len(self.labels),
            batch_size=batch_size,
            length=self.fixed_length,
        )

    def pooled(self) -> np.ndarray | None:
        """Return the pooled vectors (N, D) of the examples; None if the model names none in its `tap_tensors`."""
        tensor = getattr(self.model, "tap_tensors", {}).get("pooled")
        if tensor is None:
            return None
        return run_in_batches(
            KerasRunner(keras.Model(self.model.inputs[0], tensor)),
            self.token_ids,
            self.tokenizer,
            num_classes=tensor.shape[1],
            batch_size=BATCH_SIZE,
            length=self.fixed_length,
        )

    def attachments(self, form: str, task: str, parts: dict[str, Part]) -> Attachments:
        """Return what travels with the exported model."""
        known = settings(self.model, task, form, self.max_length, self.limits, parts)
        return Attachments(self.tokenizer.to_json(), self.labels, known)


def prepare(
    model: keras.Model, tokenizer: WordPiece, labels: Sequence[str], max_length: int, examples: Sequence[str]
) -> Prepared:
    """Check that model, tokenizer, labels and examples belong together, and run the model on the examples.

    Raises:
        ValueError: if they don't.
    """
    check_texts(labels, examples)
    check_classes(model, labels)
    allowed = limits(model, tokenizer, max_length)
    source = _in_float32(model)
    runner = KerasRunner(source)
    if runner.fixed_length is not None and max_length > runner.fixed_length:
        raise ValueError(
            f"max_length={max_length} is more than the {runner.fixed_length} ids that model {model.name!r} takes. "
            f"Use max_length={runner.fixed_length}."
        )
    token_ids = tokenizer.encode(list(examples), max_length)
    unanswered = np.zeros((len(token_ids), len(labels)), np.float32)
    prepared = Prepared(
        source, tokenizer, list(labels), allowed, max_length, runner.fixed_length, token_ids, unanswered
    )
    return prepared._replace(reference=prepared.run(runner))


def _in_float32(model: keras.Model) -> keras.Model:
    """A float32 twin that keeps its `tap_tensors`, where the model has some."""
    if hasattr(model, "tap_tensors") and not computes_in_float32(model):
        return with_policy(model, SINGLE)
    return in_float32(model)


def settings(
    model: keras.Model, task: str, form: str, max_length: int, allowed: Limits, parts: dict[str, Part]
) -> Settings:
    """Return the settings that travel with an exported model."""
    return Settings(
        task=task,
        format=form,
        max_length=max_length,
        vocab_size=allowed.vocab_size,
        parameters=int(model.count_params()),
        version=__version__,
        parts=parts,
    )
