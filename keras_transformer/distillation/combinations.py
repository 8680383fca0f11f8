"""What Keras 3.15 on TensorFlow 2.21 gets wrong in silence, or fails at far from the cause: refused when compiling."""

import keras
import tensorflow as tf


def refuse_what_keras_breaks(model: keras.Model) -> None:
    """Raise ValueError if `model`, which has just been compiled, can't be trained rightly as it is.

    With several replicas of a `tf.distribute.MirroredStrategy` these fail in the first step or give wrong
    updates: XLA, several steps an execution, float16, gradient accumulation, averages that overwrite the
    weights, and clipping, which Keras does on each replica's share before the shares are added.
    `MultiWorkerMirroredStrategy` fails in `fit` (keras#20585). `keras.distribution` does nothing at all on
    the TensorFlow backend, and says nothing.
    """
    if keras.distribution.distribution() is not None:
        raise ValueError(
            f"keras.distribution is set to {type(keras.distribution.distribution()).__name__}, which does nothing on "
            "the TensorFlow backend: all would run on one device. Call keras.distribution.set_distribution(None), and "
            "for several devices build and compile inside tf.distribute.MirroredStrategy().scope()."
        )
    strategy = model.distribute_strategy
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "MultiWorkerMirroredStrategy doesn't work with fit of Keras 3 (keras#20585). Use "
            "tf.distribute.MirroredStrategy, which takes all devices of one machine."
        )
    if strategy.num_replicas_in_sync > 1:
        _refuse_what_replicas_break(model, strategy.num_replicas_in_sync)


def _refuse_what_replicas_break(model: keras.Model, replicas: int) -> None:
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    broken = {
        "jit_compile=True": model.jit_compile,
        "steps_per_execution above 1": model.steps_per_execution > 1,
        "mixed_float16": model.dtype_policy.name == "mixed_float16",
        "gradient_accumulation_steps": optimizer.gradient_accumulation_steps,
        "ema_overwrite_frequency": optimizer.ema_overwrite_frequency,
        "clipnorm": optimizer.clipnorm,
        "global_clipnorm": optimizer.global_clipnorm,
        "clipvalue": optimizer.clipvalue,
    }
    for option, used in broken.items():
        if used:
            raise ValueError(
                f"{option} doesn't work with {replicas} replicas of a tf.distribute strategy. "
                "Leave it out, or train on one device."
            )
