"""The optimizers of the papers, where Keras' own differ from them. AdamW with decoupled decay is Keras' own."""

import math
from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive, positive_integer
from keras_transformer.layers.masks import Tensor


@keras.saving.register_keras_serializable("keras_transformer")
class WarmUpInverseRoot(keras.optimizers.schedules.LearningRateSchedule):
    """factor * model_dim^-0.5 * min(step^-0.5, step * warmup_steps^-1.5): eq. 3 of Vaswani et al. 2017.

    It rises in a line over `warmup_steps` and then falls with the root of the step. Steps count from 1, as in the
    paper: Keras passes 0 in the first one.

    Args:
        model_dim: the width of the model.
        warmup_steps: 4,000 in the paper, for 100,000 steps; take 4% to 10% of a shorter run.
        factor: 1 in the paper.

    Raises:
        ValueError: if a number isn't above 0.
    """

    def __init__(self, model_dim: int, warmup_steps: int = 4000, factor: float = 1.0) -> None:
        super().__init__()
        positive_integer("model_dim", model_dim)
        positive_integer("warmup_steps", warmup_steps)
        positive("factor", factor)
        self.model_dim, self.warmup_steps, self.factor = model_dim, warmup_steps, factor

    def __call__(self, step: Tensor) -> Tensor:
        """The learning rate of the step after `step` others, a float32 scalar."""
        number = ops.cast(step, "float32") + 1.0
        slope = ops.minimum(ops.rsqrt(number), number * self.warmup_steps**-1.5)
        return self.factor * self.model_dim**-0.5 * slope

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {"model_dim": self.model_dim, "warmup_steps": self.warmup_steps, "factor": self.factor}


@keras.saving.register_keras_serializable("keras_transformer")
class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    """peak * n / warmup_steps, from n = warmup_steps on peak * (1 + cos(pi * (n - warmup_steps) / decay_steps)) / 2.

    It climbs in a line and falls as half a cosine without restarts (Loshchilov and Hutter 2017, eq. 5), to 0 for all
    steps after `warmup_steps + decay_steps`. Steps count from 0. The values are those of
    `keras.optimizers.schedules.CosineDecay(0.0, decay_steps, warmup_target=peak, warmup_steps=warmup_steps)`, whose
    `cond` is two more graphs wherever the rate is asked for: `keras.optimizers.AdamW` does that once a weight.

    Args:
        peak: the highest rate.
        warmup_steps: until it is reached.
        decay_steps: from there to 0.

    Raises:
        ValueError: if a number isn't above 0.
    """

    def __init__(self, peak: float, warmup_steps: int, decay_steps: int) -> None:
        super().__init__()
        positive("peak", peak)
        positive_integer("warmup_steps", warmup_steps)
        positive_integer("decay_steps", decay_steps)
        self.peak, self.warmup_steps, self.decay_steps = peak, warmup_steps, decay_steps

    def __call__(self, step: Tensor) -> Tensor:
        """The learning rate of the step after `step` others, a float32 scalar."""
        number = ops.cast(step, "float32")
        fallen = ops.minimum(number - self.warmup_steps, float(self.decay_steps)) / self.decay_steps
        falling = 0.5 * (1.0 + ops.cos(math.pi * fallen))
        return self.peak * ops.where(number < self.warmup_steps, number / self.warmup_steps, falling)

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "decay_steps": self.decay_steps}


def paper_adam(learning_rate: Any, **options: Any) -> keras.optimizers.Adam:
    """Adam with beta_1 0.9, beta_2 0.98, epsilon 1e-9: Vaswani et al. 2017, section 5.3.

    Args:
        learning_rate: a number, or `WarmUpInverseRoot(...)`.
        **options: go to Keras unread, for example `global_clipnorm`, `gradient_accumulation_steps`.
    """
    return keras.optimizers.Adam(learning_rate, beta_1=0.9, beta_2=0.98, epsilon=1e-9, **options)


@keras.saving.register_keras_serializable("keras_transformer")
class Lamb(keras.optimizers.Lamb):
    """LAMB as You et al. 2020, algorithm 2, have it, with phi(z) = z.

    r = m / (sqrt(v) + epsilon), m and v bias-corrected; u = r + weight_decay * w; w -= rate * |w| / |u| * u, and the
    ratio is 1 where either norm is 0. `keras.optimizers.Lamb` is that only without weight decay: it takes the decay
    off beside the scaled step, where it doesn't enter the norm. All else is Keras' own, arguments too.
    """

    def _apply_weight_decay(self, variables: Any) -> None:
        """Nothing: `update_step` has it inside."""

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """One step of one variable."""
        place = self._get_variable_index(variable)
        m, v = self._momentums[place], self._velocities[place]
        gradient = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        self.assign(m, self.beta_1 * m + (1.0 - self.beta_1) * gradient)
        self.assign(v, self.beta_2 * v + (1.0 - self.beta_2) * ops.square(gradient))
        corrected = m / (1.0 - ops.power(self.beta_1, step))
        root = ops.sqrt(v / (1.0 - ops.power(self.beta_2, step)))
        update = corrected / (root + self.epsilon)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            update = update + self.weight_decay * variable
        of_weight, of_update = _norm(variable), _norm(update)
        ratio = ops.where(ops.minimum(of_weight, of_update) > 0, ops.divide_no_nan(of_weight, of_update), 1.0)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * ratio * update)


def _norm(values: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(ops.square(values)))
