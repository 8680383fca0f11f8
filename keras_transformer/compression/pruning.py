"""Weights that become zero while a model trains, and stay zero: callbacks for `fit` and `Distiller.fit`.

>>> pruning = MagnitudePruning(0.8, begin=0, end=900, every=50)
>>> distiller.fit(batches, epochs=10, callbacks=[pruning])  # 1,000 steps, the last 100 to recover

Zeros make a file smaller once it is compressed, see `sparsity_report`. They make nothing faster.
"""

from typing import Any

import keras
import numpy as np

from keras_transformer.checks import positive_integer
from keras_transformer.compression.held_masks import HeldMasks
from keras_transformer.compression.prunable_kernels import Which, input_axes, prunable_kernels, pruned_model
from keras_transformer.compression.sparsity_choices import largest_of_all, largest_of_each, largest_of_groups
from keras_transformer.compression.sparsity_schedules import cubic_sparsity
from keras_transformer.distillation.schedules import Schedule


class Pruning(keras.callbacks.Callback):
    """What all ways of pruning share: when masks are chosen, that they hold, and how a run goes on.

    Steps are the optimizer's own number, so they count from `compile`, and with gradient accumulation they count
    updates. Masks are chosen between batches and held inside the compiled step. With `steps_per_execution=n` Keras
    calls callbacks every n batches, so masks that fall due in between are chosen at the next call.

    Put it before callbacks that save or restore weights. With `training.checkpoints.resumable_fit` a killed run goes
    on bit for bit. Callbacks that put weights of an earlier epoch back after the last one, as EarlyStopping with
    restore_best_weights does, put back the sparsity of that epoch; before this callback, they get its masks.

    While `fit` runs, each pruned weight has a constraint that holds its zeros; it is taken off in the end. Where `fit`
    ends with an exception, the next one with this callback goes on, and `on_train_end()` takes it off by hand.

    Each epoch's logs hold the share of the chosen weights that is zero, under `name`.

    Args:
        which: the weights, see `prunable_kernels`.
        name: the key in the logs.
    """

    def __init__(self, which: Which = None, name: str = "sparsity") -> None:
        super().__init__()
        self.which, self.name = which, name
        self.chosen_at: int | None = None  # the step of the schedule that the masks are those of; part of a run's state
        self._held: HeldMasks | None = None
        self._pruned: keras.Model | None = None
        self._begins = False

    @property
    def resumed_variables(self) -> list[keras.Variable]:
        """What a run needs to go on beside the model and its optimizer."""
        return [] if self._held is None else self._held.masks

    def set_model(self, model: keras.Model) -> None:
        """Make the masks of a model that is built; `fit` calls this.

        Raises:
            ValueError: if it has nothing to prune.
        """
        super().set_model(model)
        if pruned_model(model) is not self._pruned and pruned_model(model).built:
            self._pruned, self.chosen_at = pruned_model(model), None
            self._held = self.make_masks(prunable_kernels(model, self.which))

    def make_masks(self, kernels: list[keras.Variable]) -> HeldMasks:
        """Return the masks of these weights, having checked that they suit."""
        return HeldMasks(kernels)

    def due(self, step: int) -> int | None:
        """Return the last step up to `step` at which the schedule wants new masks; None = none yet."""
        raise NotImplementedError

    def masks_at(self, due: int) -> list[np.ndarray]:
        """Return the masks that the schedule wants at step `due`."""
        raise NotImplementedError

    def check_start(self, step: int) -> None:
        """Raise ValueError if a run can't begin at this step of the optimizer, with nothing chosen before."""

    @property
    def held(self) -> HeldMasks:
        """The masks.

        Raises:
            ValueError: if the model had no weights yet when `fit` began.
        """
        if self._held is None:
            raise ValueError(
                f"model {pruned_model(self.model).name!r} isn't built, so it has no weights to prune yet. "
                "Call it on one batch before fit."
            )
        return self._held

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Hold the masks inside the compiled step.

        Raises:
            ValueError: if the model isn't built, or trains on several replicas.
        """
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(f"{type(self).__name__} doesn't work with {replicas} replicas. Train on one device.")
        self.held.hold()
        self.model.make_train_function(force=True)  # one that was compiled before knows nothing of the constraints
        self._begins = True

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the first batch, when other callbacks have restored what they keep: take up where the steps are.

        Raises:
            ValueError: if the schedule should have begun long ago.
        """
        if self._begins:
            self._begins = False
            if self.chosen_at is None:
                self.check_start(int(self.model.optimizer.iterations))
            self.held.apply()
            self._choose()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Choose new masks if they are due.

        Raises:
            ValueError: if the logs hold something else under `name`.
        """
        if self.name in (logs or {}):
            raise ValueError(f"the logs already hold {self.name!r}. Use for example name='share_of_zeros'.")
        self._choose()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the share of zeros to the logs."""
        if logs is not None:
            logs[self.name] = self.held.sparsity()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the zeros in place, also in averages of the weights that `fit` has just put there; free the step."""
        self.held.apply()
        self.held.release()
        self.model.make_train_function(force=True)

    def _choose(self) -> None:
        due = self.due(int(self.model.optimizer.iterations))
        # Forwards only: after another `compile` steps count from 0 again, and the zeros are still to be kept.
        if due is not None and (self.chosen_at is None or due > self.chosen_at):
            self.held.choose(self.masks_at(due))
            self.chosen_at = due


class ScheduledPruning(Pruning):
    """What the ways that prune more and more share: when, how much, and whether tensors are ranked together.

    Args:
        schedule: the share of zeros at a step.
        begin: the first step that prunes.
        end: the step that prunes last.
        every: steps from one pruning to the next.
        across_tensors: True to rank all tensors together.
        which: see `prunable_kernels`.
        name: the key in the logs.

    Raises:
        ValueError: if `every` isn't at least 1.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        begin: int,
        end: int,
        every: int,
        across_tensors: bool,
        which: Which,
        name: str,
    ) -> None:
        super().__init__(which, name)
        positive_integer("every", every)
        self.schedule, self.begin, self.end, self.every = schedule, begin, end, every
        self.ranked = largest_of_all if across_tensors else largest_of_each

    def due(self, step: int) -> int | None:
        """The last of begin, begin + every, ... and end that isn't after `step`; None before `begin`."""
        if step < self.begin:
            return None
        return self.end if step >= self.end else self.begin + (step - self.begin) // self.every * self.every

    def late_start(self, step: int) -> ValueError:
        """The error of a schedule whose first steps are over before it could act."""
        return ValueError(
            f"the optimizer has made {step} steps and pruning should have begun at begin={self.begin}, but nothing is "
            f"known of it. Compile again, so that steps count from 0, or use begin={step}, "
            f"end={step + self.end - self.begin}. "
            "A run that was killed goes on with training.checkpoints.resumable_fit."
        )


class MagnitudePruning(ScheduledPruning):
    """The smallest weights become zero, more and more of them (Zhu and Gupta 2017).

    At steps begin, begin + every, ... and end, the zeros_of(s_t, size) weights of smallest size go, with s_t of
    `cubic_sparsity`. One that is zero is among the smallest, so it stays zero. A run that has ended before `end` has
    the sparsity of its last step.

    A run that is killed goes on with Keras' BackupAndRestore too: the zeros say what the masks were. To prune on what
    is pruned already, give its share of zeros as `initial_sparsity`; `KeepZeros` just keeps it.

    Args:
        sparsity: share of zeros in the end, in [0, 1).
        begin: the first step that prunes.
        end: the step that prunes last. Training should go on after it, so that the model recovers.
        every: steps from one pruning to the next.
        initial_sparsity: share of zeros at `begin`.
        across_tensors: True to rank the weights of all tensors together. Then a tensor may lose everything.
        which: see `prunable_kernels`.
        name: the key in the logs.

    Raises:
        ValueError: as `cubic_sparsity`; if `every` isn't at least 1; when `fit` starts, if the optimizer has made
            steps past `begin` and nothing is pruned yet.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        begin: int = 0,
        end: int,
        every: int = 100,
        initial_sparsity: float = 0.0,
        across_tensors: bool = False,
        which: Which = None,
        name: str = "sparsity",
    ) -> None:
        schedule = cubic_sparsity(sparsity, begin, end, initial_sparsity)
        shared: dict[str, Any] = {"across_tensors": across_tensors, "which": which, "name": name}
        super().__init__(schedule, begin=begin, end=end, every=every, **shared)

    def masks_at(self, due: int) -> list[np.ndarray]:
        """Keep the largest."""
        return self.ranked([np.abs(value) for value in self.held.values()], self.schedule(due))

    def check_start(self, step: int) -> None:
        """Refuse to prune all at once where steps were meant."""
        if step >= self.begin + self.every and self.schedule(step) and all(part.all() for part in self.held.values()):
            raise self.late_start(step)


class NToMPruning(Pruning):
    """Of every `out_of` neighbouring inputs of a unit, `kept` stay: the largest (2:4 in Mishra et al. 2021).

    All go at once, at step `begin`, as in their recipe: prune a trained model, then train on. Kernels of EinsumDense
    are read along the axes that the product sums over.

    Args:
        kept: N.
        out_of: M; it divides the number of inputs of each pruned kernel.
        begin: the step that prunes.
        which: see `prunable_kernels`.
        name: the key in the logs.

    Raises:
        ValueError: if N isn't below M, one isn't at least 1, or `begin` isn't at least 0; when `fit` starts, if a
            kernel can't be cut into groups of M, or which of its axes are inputs isn't known.
    """

    def __init__(self, kept: int, out_of: int, *, begin: int = 0, which: Which = None, name: str = "sparsity") -> None:
        super().__init__(which, name)
        positive_integer("kept", kept)
        positive_integer("out_of", out_of)
        if kept >= out_of:
            raise ValueError(
                f"kept={kept} out_of={out_of} drops nothing: fewer are kept than there are. Use for example "
                f"kept={max(out_of // 2, 1)}, out_of={max(out_of, 2)}."
            )
        cubic_sparsity(0.0, begin, begin)
        self.kept, self.out_of, self.begin = kept, out_of, begin

    def make_masks(self, kernels: list[keras.Variable]) -> HeldMasks:
        """Check that each kernel can be cut into groups."""
        self._axes = [input_axes(self.model, kernel) for kernel in kernels]
        for kernel, axes in zip(kernels, self._axes, strict=True):
            inputs = int(np.prod([kernel.shape[axis] for axis in axes]))
            if inputs % self.out_of:
                raise ValueError(
                    f"{kernel.path} of shape {tuple(kernel.shape)} has {inputs} inputs, which can't be cut into groups "
                    f"of out_of={self.out_of}: {inputs} % {self.out_of} = {inputs % self.out_of}. "
                    "Leave it out, which=[...] names the layers to prune, or use another out_of."
                )
        return super().make_masks(kernels)

    def due(self, step: int) -> int | None:
        """Once."""
        return self.begin if step >= self.begin else None

    def masks_at(self, due: int) -> list[np.ndarray]:
        """Keep the largest of each group."""
        pairs = zip(self.held.values(), self._axes, strict=True)
        return [largest_of_groups(np.abs(value), self.kept, self.out_of, axes) for value, axes in pairs]


class KeepZeros(Pruning):
    """The weights that are zero when `fit` starts stay zero: fine-tuning of a model that was pruned before.

    Raises:
        ValueError: when `fit` starts, if none of the chosen weights is zero.
    """

    def due(self, step: int) -> int | None:
        """At once."""
        return 0

    def masks_at(self, due: int) -> list[np.ndarray]:
        """Keep what isn't zero."""
        masks = [value != 0 for value in self.held.values()]
        if all(mask.all() for mask in masks):
            raise ValueError(
                f"none of the {sum(mask.size for mask in masks)} weights chosen in {self.held.weights[0].path} and so "
                "on is zero, so there is nothing to keep. Prune the model first, or choose others with which=."
            )
        return masks
