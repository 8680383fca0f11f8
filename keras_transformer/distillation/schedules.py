"""Temperatures and weights that change while training: pure functions of the step, and the callback that applies them.

>>> weight = keras.Variable(0.0, trainable=False)
>>> distiller = Distiller(student, teacher, [LossTerm("hidden_states", weight, hidden_states(pairs))])
>>> distiller.fit(x, y, callbacks=[Scheduled("hidden_states_weight", weight, linear(1.0, 0.0, steps=500))])
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import keras

from keras_transformer.checks import positive_integer

Schedule = Callable[[int], float]
"""From the number of optimizer steps made, 0 before the first, to a value."""


def linear(start: float, stop: float, steps: int) -> Schedule:
    """start + (stop - start) s / steps at step s; `stop` from step `steps` on.

    Raises:
        ValueError: if start or stop isn't finite, or steps isn't a whole number of at least 1.
    """
    return _ramp(start, stop, steps, lambda progress: progress)


def cosine(start: float, stop: float, steps: int) -> Schedule:
    """start + (stop - start) (1 - cos(pi s / steps)) / 2 at step s; `stop` from step `steps` on.

    Half a cosine, without restarts (Loshchilov and Hutter 2017, eq. 5): slow at both ends.

    Raises:
        ValueError: as `linear`.
    """
    return _ramp(start, stop, steps, lambda progress: (1 - math.cos(math.pi * progress)) / 2)


def step(values: Sequence[float], at: Sequence[int]) -> Schedule:
    """values[0] before step at[0], values[1] from there to before at[1], and so on.

    Args:
        values: one more than `at`.
        at: steps at which the value changes, going up, at least 1.

    Raises:
        ValueError: if a value isn't finite, the numbers of both don't fit, or the steps don't go up.
    """
    levels, changes = [_finite("values", value) for value in values], list(at)
    for change in changes:
        positive_integer("at", change)
    if len(levels) != len(changes) + 1 or any(after <= before for before, after in pairwise(changes)):
        raise ValueError(
            f"values={levels} at={changes}: there must be one value more than steps, and the steps must go up. "
            "Use for example step([4.0, 2.0, 1.0], at=[100, 200])."
        )
    return lambda done: levels[sum(done >= change for change in changes)]


class Scheduled(keras.callbacks.Callback):
    """Assign schedule(optimizer steps made) to `variable` before each batch, and log it.

    The number of steps is the optimizer's own, so a run that goes on from restored optimizer weights goes on at
    the right value, and with gradient accumulation it counts updates. With `steps_per_execution=n` Keras calls
    callbacks once every n batches: the value then stays that of the first of them for all n.

    Each epoch's logs get `name`: the value of the epoch's last batch. Callbacks after this one see it, and so does
    the history.

    Args:
        name: the key in the logs, for example "soft_targets_weight" or "temperature".
        variable: what a `LossTerm` has as its weight, or a loss as its temperature.
        schedule: from the number of steps to a finite value.

    Raises:
        TypeError: if `variable` is no `keras.Variable`: a plain number is fixed once the step is compiled.
        ValueError: when `fit` starts, if the logs hold something else under `name`.
    """

    def __init__(self, name: str, variable: keras.Variable, schedule: Schedule) -> None:
        super().__init__()
        if not isinstance(variable, keras.Variable):
            raise TypeError(
                f"{name}: {variable!r} is no keras.Variable, and a number can't change while fit runs. Make "
                f"one, keras.Variable({variable!r}, trainable=False), and give it to the LossTerm or loss too."
            )
        self.name, self.variable, self.schedule = name, variable, schedule

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that the name is free."""
        taken = [metric.name for metric in self.model.metrics]
        if self.name in taken:
            raise ValueError(
                f"the logs already hold {self.name!r}, one of {taken}. Use for example name={self.name + '_weight'!r}."
            )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Assign the value of the step that comes.

        Raises:
            ValueError: if the schedule gives no finite number.
        """
        self.variable.assign(_finite(self.name, self.schedule(int(self.model.optimizer.iterations))))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the value to the logs."""
        if logs is not None:
            logs[self.name] = float(self.variable)


def _ramp(start: float, stop: float, steps: int, shape: Callable[[float], float]) -> Schedule:
    first, last = _finite("start", start), _finite("stop", stop)
    positive_integer("steps", steps)

    def value(done: int) -> float:
        # Not first + (last - first) * 1.0, which may miss `last` by its rounding.
        return last if done >= steps else first + (last - first) * shape(done / steps)

    return value


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a finite number. Use for example {name}=1.0.")
    return float(value)
