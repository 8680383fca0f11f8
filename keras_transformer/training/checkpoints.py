"""Killed at any moment and started again, a run ends with the very weights and history of an undisturbed one.

Keras' BackupAndRestore leaves out what that takes: the seeds of dropout, the batches of the epoch that were done, the
metrics gathered over them, and what callbacks know (the best value so far). All of it is kept here, in one file.
"""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import safetensors
import tensorflow as tf
from safetensors import numpy as safetensors_numpy

from keras_transformer.checks import UserError, positive_integer
from keras_transformer.files import ModelFileError, staged

FILE = "state.safetensors"

Dataset = Callable[[int, int, int], tf.data.Dataset]
"""(first epoch, number of epochs, batches of the first one to skip) -> batches; `Batches.dataset` is one."""


class Progress(NamedTuple):
    """How far a run has come."""

    epoch: int = 0  # the epoch to begin, or to go on with
    step: int = 0  # its batches that are done
    stopped: bool = False  # a callback ended the training after the last epoch that is done
    finished: bool = False  # nothing is left to do
    history: Mapping[str, list[float]] = {}  # of the epochs that are done


class RunState:
    """The state of one training run in a folder: every variable, the progress, the history, what callbacks know.

    It is one file that is replaced whole, so that a process killed while writing leaves the one before.

    Args:
        folder: holds the file `state.safetensors`; other files in it are left alone.
        fingerprint: what makes a run this run (data, sizes, seed, rates), in JSON types. A state that was
            written under another one is refused.
    """

    def __init__(self, folder: Path | str, fingerprint: Mapping[str, Any] | None = None) -> None:
        self.path = Path(folder) / FILE
        self.fingerprint = json.loads(json.dumps(fingerprint or {}))

    def progress(self) -> Progress:
        """How far the run in the folder has come; `Progress()` where there is none.

        Raises:
            ModelFileError: if the file is damaged.
            UserError: if it is the state of another run; the message names what differs.
        """
        return self._read()[0] if self.path.exists() else Progress()

    def save(self, model: keras.Model, progress: Progress, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """Write the state of `model`, which has been built and compiled, and of the callbacks.

        Raises:
            UserError: if the disk is full or the folder can't be written.
        """
        arrays = {key: _as_array(variable) for key, variable in _variables(model, callbacks).items()}
        known: list[dict[str, Any]] = []
        for index, callback in enumerate(callbacks):
            values = _public_state(callback)
            lists = {name: value for name, value in values.items() if isinstance(value, list)}
            for name, value in lists.items():
                arrays |= {f"callback/{index}/{name}/{place:05d}": array for place, array in enumerate(value)}
            known.append({name: value for name, value in values.items() if name not in lists})
        content = {"progress": progress._asdict(), "callbacks": known, "fingerprint": self.fingerprint}
        text = json.dumps(content)
        metadata = {"content": text, "sha256": _digest(text, arrays)}
        with staged(self.path) as staging:
            staging.write_bytes(safetensors_numpy.save(arrays, metadata))

    def restore(self, model: keras.Model, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Progress:
        """Set every variable of `model`, and what the callbacks know; return how far the run has come.

        Args:
            model: built and compiled as it was when the state was written. Its optimizer is built here; metrics are
                built by one `evaluate`.
            callbacks: the same ones in the same order.

        Raises:
            ModelFileError: if the file is missing or damaged.
            UserError: if the state is another run's, or doesn't fit the model.
        """
        progress, known, arrays = self._read()
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        for callback in callbacks:
            callback.set_model(model)  # some make their variables when they meet the model
        variables = _variables(model, callbacks)
        self._check_fit(variables, arrays)
        for key, variable in variables.items():
            variable.assign(arrays[key].astype(variable.dtype))
        for index, (callback, values) in enumerate(zip(callbacks, known, strict=False)):
            vars(callback).update(values)
            lists: dict[str, list[np.ndarray]] = {}
            for key in sorted(arrays):
                if key.startswith(f"callback/{index}/"):
                    lists.setdefault(key.split("/")[2], []).append(arrays[key])
            vars(callback).update(lists)
        return progress

    def remove_leftovers(self) -> None:
        """Remove what a process killed while writing has left beside the state."""
        for leftover in self.path.parent.glob(f".{FILE}.*.partial"):
            leftover.unlink(missing_ok=True)

    def _read(self) -> tuple[Progress, list[dict[str, Any]], dict[str, np.ndarray]]:
        try:
            with safetensors.safe_open(self.path, framework="numpy") as file:
                metadata = file.metadata() or {}
                names = file.keys()
                arrays = {name: file.get_tensor(name) for name in names}
        except (safetensors.SafetensorError, OSError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from error
        text = metadata.get("content", "")
        if metadata.get("sha256") != _digest(text, arrays):
            raise self._damaged("its sha256 is not the recorded one")
        content = json.loads(text)
        self._check_fingerprint(content["fingerprint"])
        return Progress(**content["progress"]), content["callbacks"], arrays

    def _damaged(self, reason: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: the state of a training run is damaged ({reason}). "
            f"Delete the folder {self.path.parent} to start over."
        )

    def _check_fingerprint(self, theirs: dict[str, Any]) -> None:
        for name in [*self.fingerprint, *theirs]:
            old, new = theirs.get(name), self.fingerprint.get(name)
            if old != new:
                raise UserError(
                    f"{self.path.parent}: holds the state of another run, whose {name} was {old!r} and now is "
                    f"{new!r}. "
                    "Give the same options to go on, or delete the folder to start over."
                )

    def _check_fit(self, variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
        theirs = {key: value.shape for key, value in arrays.items() if not key.startswith("callback/")}
        ours = {key: tuple(variable.shape) for key, variable in variables.items()}
        for key in sorted({*theirs, *ours}):
            if theirs.get(key) != ours.get(key):
                raise UserError(
                    f"{self.path}: its {key} has shape {theirs.get(key)} and the model's has {ours.get(key)}. Build "
                    "and compile the same model, or delete the folder to start over. "
                    "(A model that never ran has no metrics yet: evaluate it on one batch first.)"
                )


class ResumableTraining(keras.callbacks.Callback):
    """Keeps a `RunState` up to date during `fit`, and starts from it. `resumable_fit` puts it to use.

    It has to be the last callback, so that it sees what the others know. `fit` must be called with `initial_epoch`,
    `steps_per_epoch` and data that leave out what `state.progress()` says is done.

    Args:
        state: where to keep the state.
        epochs: the number that ends the run.
        every_seconds: shortest time between two writings inside an epoch; each epoch's end is written too.
        callbacks: those whose public numbers (best value, waiting) belong to the state.
    """

    def __init__(
        self,
        state: RunState,
        epochs: int,
        every_seconds: float = 60.0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        super().__init__()
        self.state, self.epochs, self.every_seconds, self.callbacks = state, epochs, every_seconds, callbacks
        self.reached = Progress()
        self.past: dict[str, list[float]] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restore everything, after the other callbacks have reset themselves."""
        self._restore()
        self.written = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restore again where an epoch goes on: `fit` has just reset the metrics, and schedules have run twice."""
        if self.reached.step:
            self._restore()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the state if enough time has passed. After the last batch it's the epoch's end that does."""
        is_last = batch + 1 >= self.params["steps"]
        if not is_last and time.monotonic() - self.written >= self.every_seconds:
            self._save(self.reached._replace(step=self.reached.step + batch + 1))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the state and the logs of the epoch."""
        for name, value in (logs or {}).items():
            self.past.setdefault(name, []).append(np.asarray(value).tolist())
        self.reached = Progress(epoch + 1, stopped=self.model.stop_training)
        self._save(self.reached)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write the last state: other callbacks may have put the best weights back."""
        if self.reached.stopped or self.reached.epoch >= self.epochs:
            self._save(self.reached._replace(finished=True))

    def _restore(self) -> None:
        if self.state.path.exists():
            self.reached = self.state.restore(self.model, self.callbacks)
            self.past = {name: list(values) for name, values in self.reached.history.items()}
        self.model.history.history = {name: list(values) for name, values in self.past.items()}

    def _save(self, progress: Progress) -> None:
        self.state.save(self.model, progress._replace(history=self.past), self.callbacks)
        self.written = time.monotonic()


def resumable_fit(
    model: keras.Model,
    dataset: Dataset,
    *,
    epochs: int,
    steps_per_epoch: int,
    folder: Path | str,
    fingerprint: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    validation_data: Any = None,
    every_seconds: float = 60.0,
    verbose: int | str = 0,
) -> dict[str, list[float]]:
    """`model.fit`, but what a killed process had done is not done again; returns the history of all epochs.

    An epoch that was cut off goes on in a `fit` of its own; then the rest follows. A finished run is not run again:
    the model gets its last state. The folder is kept; delete it when the model has been saved.

    Args:
        model: built and compiled; the same each time.
        dataset: gives the same batches for the same epoch each time.
        epochs: of the whole run.
        steps_per_epoch: batches an epoch; a multiple of the model's `steps_per_execution`.
        folder: for the state.
        fingerprint: see `RunState`; `epochs` and `steps_per_epoch` are added.
        callbacks: as for `fit`.
        validation_data: as for `fit`.
        every_seconds: see `ResumableTraining`.
        verbose: as for `fit`.

    Raises:
        ModelFileError: if the state is damaged.
        UserError: if it is another run's.
        ValueError: if a number is out of range.
    """
    positive_integer("epochs", epochs)
    positive_integer("steps_per_epoch", steps_per_epoch)
    if steps_per_epoch % model.steps_per_execution:
        raise ValueError(
            f"steps_per_epoch={steps_per_epoch} is no multiple of steps_per_execution={model.steps_per_execution}: "
            "Keras would run more batches than an epoch has. Compile with steps_per_execution=1."
        )
    sizes = {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    state = RunState(folder, {**(fingerprint or {}), **sizes})
    state.remove_leftovers()
    if state.path.exists():
        _build(model, dataset(0, 1, 0))
        if validation_data is not None and state.progress().epoch:  # metrics wait for labels: only it may have them
            _build(model, validation_data)
        state.restore(model, callbacks)
    while not (progress := state.progress()).finished:
        last = _last_epoch(progress, epochs)
        first = min(progress.epoch, epochs - 1)  # where no epoch is left the data aren't looked at
        model.fit(
            dataset(first, max(last - first, 1), progress.step),
            initial_epoch=progress.epoch,
            epochs=last,
            steps_per_epoch=steps_per_epoch - progress.step,
            callbacks=[*callbacks, ResumableTraining(state, epochs, every_seconds, callbacks)],
            validation_data=validation_data,
            shuffle=False,  # the data set shuffles
            verbose=verbose,
        )
    return {name: list(values) for name, values in progress.history.items()}


def _last_epoch(progress: Progress, epochs: int) -> int:
    """Where the next `fit` ends; at its beginning if only the end of training is left to be done."""
    if progress.stopped:
        return progress.epoch
    return progress.epoch + 1 if progress.step else epochs


def _build(model: keras.Model, data: Any) -> None:
    """Make the variables that come into being with the first batch (metrics, late layers); they are then restored."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    model.make_test_function(force=True)  # a tf.function makes variables in its first call alone
    model.evaluate(x, y, sample_weight=sample_weight, steps=1, verbose=0)


def _variables(model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, keras.Variable]:
    """All that changes in training, by place: names such as "dense_3" differ from process to process."""
    groups = {
        "model": model.variables,  # with batch statistics and the seeds of dropout
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
        # What a model offers beside them: a Distiller's scheduled weights and temperatures.
        "resumed": getattr(model, "resumed_variables", []),
        # And what a callback offers: the masks and scores of pruning.
        "callbacks": [part for callback in callbacks for part in getattr(callback, "resumed_variables", [])],
    }
    return {f"{name}/{index:05d}": value for name, group in groups.items() for index, value in enumerate(group)}


def _as_array(variable: keras.Variable) -> np.ndarray:
    array = np.asarray(variable.numpy())
    return array.astype("float32") if array.dtype == "bfloat16" else array  # exact, and safetensors reads it


def _public_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """What a callback learns in a run: its public numbers and lists of arrays, without what its constructor takes."""
    given = inspect.signature(type(callback).__init__).parameters
    state = {}
    for name, value in vars(callback).items():
        if name.startswith("_") or name in given:
            continue
        if isinstance(value, np.generic):
            value = value.item()
        is_arrays = isinstance(value, list) and value and all(isinstance(part, np.ndarray) for part in value)
        if value is None or isinstance(value, bool | int | float | str) or is_arrays:
            state[name] = value
    return state


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(arrays):
        digest.update(f"{key} {arrays[key].dtype} {arrays[key].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()
