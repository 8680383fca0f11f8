"""A SavedModel in TensorFlow Serving's layout, which takes raw strings and runs wherever core TensorFlow does."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer import files
from keras_transformer.checks import UserError
from keras_transformer.export.attachments import parts_of_folder, write_to_folder
from keras_transformer.export.parity import ExportReport, ParityError, compare, require_logits

if TYPE_CHECKING:
    import keras

    from keras_transformer.data.tokenizer import WordPiece
    from keras_transformer.export.preparation import Prepared
    from keras_transformer.export.serving_session import Answers, ServingSession

FORMAT = "saved_model"
VERSION = "1"
GRAPH = "saved_model.pb"
TOLERANCE = 1e-5
FIX = "Pass a larger tolerance if you can live with that."


def saved_model(
    model: "keras.Model",
    folder: Path | str,
    *,
    tokenizer: "WordPiece",
    labels: Sequence[str],
    max_length: int,
    examples: Sequence[str],
    tolerance: float = TOLERANCE,
    task: str = "classify",
) -> ExportReport:
    """Write `model` as `FOLDER/1/` for TensorFlow Serving, reload it as Serving does, and prove that it agrees.

    Three signatures share one set of weights, each stored once. `serving_default` takes `text` (N,) string and gives
    `labels` (N,) string, the best label of each text, and `scores` (N, C) float32, their softmax in the order of
    `assets.extra/labels.json`. `encode` takes `text` and gives `embedding` (N, D) float32, the pooled vector; a model
    that has none in its `tap_tensors` has no such signature. `tokens` takes `token_ids` (N, T) int32, 0 = padding, and
    gives `logits` (N, C) float32. Ids out of range, too many of them, or a text beyond 1 MiB are answered with
    INVALID_ARGUMENT. There are only core TensorFlow operators in it, and none that needs XLA. A model in mixed
    precision is written, and compared, in float32.

    What an operator of the server needs is written with it: requests to warm it up in `assets.extra/`, and in `folder`
    a `models.config`, a `batching_parameters.txt`, and `SERVING.md` with the commands for this model.

    Args:
        model: token ids (N, T) int32 -> logits (N, C).
        folder: the model's name for Serving, for example `out/sentiment`; version `1/` is made or replaced in it.
        tokenizer: the one that the model was trained with; it goes into the graph.
        labels: name of each class, in the order of the logits.
        max_length: texts are cut to so many word pieces.
        examples: texts with which the reloaded model is compared.
        tolerance: largest difference in a logit, or in a score, that is let through.
        task: written into the settings.

    Raises:
        ParityError: if the reloaded model differs by more than `tolerance`. Nothing is written then.
        UserError: if `folder/1` or a file beside it is something else, can't be written, or the model needs XLA.
        ValueError: if model, tokenizer, labels, `max_length` and `examples` don't belong together.
    """
    from keras_transformer.export.preparation import prepare
    from keras_transformer.export.serving_graph import write
    from keras_transformer.export.serving_notes import Notes, refuse_foreign_notes
    from keras_transformer.export.serving_session import ServingSession

    target = Path(folder) / VERSION
    refuse_foreign(target)
    prepared = prepare(model, tokenizer, labels, max_length, examples)
    refuse_foreign_notes(Path(folder))
    with files.staged(target) as staging:
        write(prepared, staging)
        with ServingSession(staging) as session:
            refuse_xla(session.operators, target)
            result = compare(prepared.reference, prepared.run(session.logits))
            require_logits(result, tolerance, target, FIX)
            _require_answers(session.answers(examples), prepared, tolerance, target)
            _require_embeddings(session, prepared, examples, tolerance, target)
            notes = Notes.of(Path(folder), session, tokenizer, max_length, task)
            notes.write_warm_up(staging, session)
        parts = parts_of_folder(staging)
        write_to_folder(staging, prepared.attachments(FORMAT, task, parts))
    notes.write()
    return ExportReport.of(target, FORMAT, result, session.operators)


def refuse_foreign(target: Path) -> None:
    """Raise UserError if `target` holds anything but an older SavedModel."""
    if target.exists() and not (target / GRAPH).is_file():
        raise UserError(
            f"{target}: is there and is no SavedModel, so it isn't replaced. Give another folder, or move it away."
        )


def refuse_xla(operators: Sequence[str], target: Path) -> None:
    """Raise UserError for operators of XLA: TensorFlow Serving starts with it off, and answers them with an error."""
    compiled = [name for name in operators if name.startswith("Xla")]
    if compiled:
        raise UserError(
            f"{target}: the model uses {compiled}, which a server with XLA off refuses. Nothing was written. "
            "Write that part of the model with other operators, for example ops.where in place of ops.slice_update."
        )


def _require_answers(answers: "Answers", prepared: "Prepared", tolerance: float, target: Path) -> None:
    """Raw strings must end in the scores of the same tokens: this proves the tokenizer in the graph."""
    shifted = prepared.reference - prepared.reference.max(axis=1, keepdims=True)
    softmax = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    result = compare(softmax, answers.scores)
    best = [prepared.labels[index] for index in answers.scores.argmax(axis=1)]
    if result.max_abs_logit_error > tolerance or answers.labels != best:
        raise ParityError(
            f"{target}: a score that it gives for a raw text would differ from its Keras model by "
            f"{result.max_abs_logit_error:.1e} (limit {tolerance:.0e}), most at example {result.worst_example}: the "
            f"tokenizer in the graph reads that text differently. Nothing was written. Pass the tokenizer that the "
            f"model was trained with, and report the text."
        )


def _require_embeddings(
    session: "ServingSession", prepared: "Prepared", examples: Sequence[str], tolerance: float, target: Path
) -> None:
    """Raw strings must end in the pooled vector of the same tokens, if the model has one."""
    reference = prepared.pooled()
    if reference is None:
        return
    result = compare(reference, session.embeddings(examples))
    limit = tolerance * max(1.0, float(np.abs(reference).max()))
    if not result.max_abs_logit_error <= limit:
        raise ParityError(
            f"{target}: the vector that it gives for a raw text would differ from its Keras model's by "
            f"{result.max_abs_logit_error:.1e} (limit {limit:.0e}), most at example {result.worst_example}. Nothing "
            f"was written. {FIX}"
        )
