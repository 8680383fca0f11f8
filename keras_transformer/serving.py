"""Load what was trained or exported, a bundle, a `.tflite` file or a SavedModel, and ask it: `predict(texts)`.

Only the bundle and the SavedModel need TensorFlow; a `.tflite` file runs on LiteRT alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer import bundle, files, generation, places
from keras_transformer.checks import UserError, positive_integer
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.data.well_formed import well_formed
from keras_transformer.export.attachments import Attachments, Settings
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.export.requirements import check_lengths
from keras_transformer.export.tensorflow_threads import use_threads
from keras_transformer.export.token_batches import Run, run_in_batches
from keras_transformer.files import ModelFileError
from keras_transformer.generation import Writer
from keras_transformer.tasks import CLASSIFY

BATCH_SIZE = 32


class Predictions(NamedTuple):
    """Answers to N texts."""

    labels: list[str]  # the best label of each text
    scores: np.ndarray  # (N, C) float32, softmax, in the order of `Predictor.labels`


class Predictor:
    """A model with its tokenizer and labels: texts in, labels out. Threads may share it.

    A text longer than `max_length` word pieces is cut there. `format` is "keras", "saved_model" or a value of
    `export.tflite.FORMATS`; `bytes` is the size of what holds the model.

    Args:
        run: runs a batch of padded token ids.
        attached: tokenizer, labels and settings of the model.
        size: bytes on disk.
        batch_size: rows that `run` takes at once.
        fixed_length: the one length that `run` takes; None = any.
    """

    def __init__(
        self, run: Run, attached: Attachments, size: int, *, batch_size: int, fixed_length: int | None = None
    ) -> None:
        settings = attached.settings
        self.labels = attached.labels
        self.format, self.task = settings.format, settings.task
        self.max_length, self.vocab_size = settings.max_length, settings.vocab_size
        self.parameters, self.bytes = settings.parameters, size
        self.tokenizer = WordPiece.from_json(attached.tokenizer_json)
        self._run, self._batch_size, self._fixed_length = run, batch_size, fixed_length

    def predict(self, texts: Sequence[str]) -> Predictions:
        """Return the best label of each text, and the scores of all labels."""
        scores = _softmax(self.logits(texts))
        return Predictions([self.labels[index] for index in scores.argmax(axis=1)], scores)

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logits (N, C) float32 of N texts.

        Raises:
            TypeError: if `texts` is one string, or holds something else than strings.
        """
        return self.token_logits(self.tokenizer.encode(texts, self.max_length))

    def token_logits(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the logits (N, C) float32 of N rows of token ids, of any lengths up to `max_length`.

        Raises:
            UserError: for an id outside of the vocabulary, a row that is too long, or one without the [MASK] that the
                model is asked for. Kernels would not say so.
        """
        for row, ids in enumerate(token_ids):
            self._check_ids(row, ids)
        return run_in_batches(
            self._run,
            token_ids,
            self.tokenizer,
            num_classes=len(self.labels),
            batch_size=self._batch_size,
            length=self._fixed_length,
        )

    def _check_ids(self, row: int, ids: Sequence[int]) -> None:
        if not 0 < len(ids) <= self.max_length:
            raise UserError(
                f"token_ids[{row}] has {len(ids)} ids, and this model takes 1 to {self.max_length}. Cut the row to fit."
            )
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            wrong = next(index for index in ids if not 0 <= index < self.vocab_size)
            raise UserError(
                f"token_ids[{row}] holds {wrong}, and this model's ids are 0 to {self.vocab_size - 1}. "
                "Make the ids with this model's own tokenizer."
            )
        asked = self.tokenizer.asked_id
        if asked is not None and asked not in ids:
            raise UserError(
                f"token_ids[{row}] has no [MASK], id {asked}, and this model says what stands there. "
                f"Write [MASK] into the text, within its first {self.max_length - 2} pieces."
            )


class SavedModelPredictor(Predictor):
    """A predictor whose labels and scores come out of the signature that TensorFlow Serving answers with.

    Args:
        loaded: what `tf.saved_model.load` returned; kept, since its signatures die with it.
        attached: tokenizer, labels and settings of the model.
        size: bytes on disk.
    """

    def __init__(self, loaded: Any, attached: Attachments, size: int) -> None:
        self._loaded = loaded
        self._text, self._tokens = loaded.signatures["serving_default"], loaded.signatures["tokens"]
        length = self._tokens.structured_input_signature[1]["token_ids"].shape[1]
        super().__init__(self._run_tokens, attached, size, batch_size=BATCH_SIZE, fixed_length=length)

    def predict(self, texts: Sequence[str]) -> Predictions:
        """Return the best label of each text, and the scores of all labels.

        Raises:
            TypeError: if `texts` is one string, or holds something else than strings.
            UserError: for a text longer than the graph reads, or without the [MASK] that the model is asked for.
        """
        import tensorflow as tf

        _check_texts(texts)
        self._check_masks(texts)
        labels: list[str] = []
        scores = [np.zeros((0, len(self.labels)), np.float32)]
        for start in range(0, len(texts), BATCH_SIZE):
            batch = [well_formed(text).encode() for text in texts[start : start + BATCH_SIZE]]
            check_lengths(batch)
            answer = self._text(text=tf.constant(batch))
            labels += [label.decode() for label in answer["labels"].numpy()]
            scores.append(answer["scores"].numpy())
        return Predictions(labels, np.concatenate(scores))

    def _check_masks(self, texts: Sequence[str]) -> None:
        """Raise UserError for a text without the [MASK] that the model is asked for; the graph would say less."""
        if self.tokenizer.reads_mask:
            for row, ids in enumerate(self.tokenizer.encode(texts, self.max_length)):
                self._check_ids(row, ids)

    def _run_tokens(self, token_ids: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        return self._tokens(token_ids=tf.constant(token_ids, tf.int32))["logits"].numpy()


def load(path: Path | str, threads: int | None = None, *, xnnpack: bool = True) -> Predictor | Writer:
    """Load a bundle, a `.tflite` file, or a SavedModel (its version folder, or the folder above it), of any task.

    What classifies gives a `Predictor`, whose `predict` answers with labels and scores; what translates or goes on a
    `generation.Writer`, whose `predict` answers with texts. Arguments and errors are those of `load_classifier`.
    """
    if places.find(path).task == CLASSIFY:
        return load_classifier(path, threads, xnnpack=xnnpack)
    return generation.load(path, threads=threads, xnnpack=xnnpack)


def load_classifier(path: Path | str, threads: int | None = None, *, xnnpack: bool = True) -> Predictor:
    """Load what answers with labels, in any form.

    Args:
        path: what `train`, `distill` or `export` wrote.
        threads: how many one answer may use; None = the runtime's choice. TensorFlow takes it only before its first
            operation in a process.
        xnnpack: False to run a `.tflite` file with LiteRT's own kernels, many times slower: for comparisons.

    Raises:
        ModelFileError: if there is nothing, something else, a damaged model, or one that writes at `path`. The message
            names it.
        UserError: if TensorFlow already runs in this process with another number of threads, or `xnnpack` is False and
            it is no `.tflite` file.
    """
    if threads is not None:
        positive_integer("threads", threads)
    found = places.find(path)
    if not xnnpack:
        places.require_tflite(found)
    if found.attached is None:
        return _load_bundle(found.path, threads)
    if found.task != CLASSIFY:
        raise ModelFileError(
            f"{path}: was trained for {found.task!r}, and it takes {CLASSIFY!r} to find labels. "
            "Ask it with `keras-transformer generate`."
        )
    if found.form == places.TFLITE:
        return _load_tflite(found.path, found.attached, threads, xnnpack)
    return _load_saved_model(found.path, found.attached, threads)


def _load_tflite(path: Path, attached: Attachments, threads: int | None, xnnpack: bool) -> Predictor:
    runner = LiteRunner(path, threads, xnnpack)
    return Predictor(runner, attached, files.size_on_disk(path), batch_size=1, fixed_length=runner.fixed_length)


def _load_saved_model(folder: Path, attached: Attachments, threads: int | None) -> Predictor:
    use_threads(threads)
    import tensorflow as tf

    return SavedModelPredictor(tf.saved_model.load(str(folder)), attached, files.size_on_disk(folder))


def _load_bundle(folder: Path, threads: int | None) -> Predictor:
    use_threads(threads)
    from keras_transformer.export.keras_runner import KerasRunner

    loaded = bundle.load(folder, task=CLASSIFY)
    runner = KerasRunner(loaded.model)
    size = bundle.read(folder).bytes
    return Predictor(runner, _attached(loaded), size, batch_size=BATCH_SIZE, fixed_length=runner.fixed_length)


def _attached(loaded: bundle.Bundle) -> Attachments:
    manifest = loaded.manifest
    settings = Settings(
        task=manifest.task,
        format="keras",
        max_length=manifest.max_length,
        vocab_size=getattr(loaded.model, "vocab_size", loaded.tokenizer.vocab_size),
        parameters=manifest.parameters,
        version=manifest.versions.get("keras_transformer", "unknown"),
        parts={},
    )
    return Attachments(loaded.tokenizer.to_json(), loaded.labels, settings)


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"texts={str(texts)[:40]!r}: a list of strings is needed. Use [text] for one text.")


def _softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x) / sum(exp(x)) over the last axis, shifted by the largest so that nothing overflows."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
