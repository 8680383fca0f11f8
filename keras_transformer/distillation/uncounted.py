"""What counts nothing isn't to be seen in the gradient either: a weight of 0 times NaN or infinity is NaN.

To leave a value out after the loss is too late for that: its gradient is infinite before the 0 meets it. So what
doesn't count is replaced before the loss.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.layers.masks import Tensor

LARGEST = 1e15
"""Below it the sum of squares over any width stays finite in float32."""


def defused(x: Tensor, counted: Tensor) -> Tensor:
    """`x` with 0 for each entry that is NaN, infinite, or 1e15 and more, in rows that don't count.

    Any other entry stays: where a loss looks at rows together, one of weight 0 counts as the other end of a pair.

    Args:
        x: (B, ...), any float dtype.
        counted: (B,) bool.
    """
    spread = ops.reshape(counted, (-1, *[1] * (len(x.shape) - 1)))
    harmless = ops.less(ops.abs(ops.cast(x, "float32")), LARGEST)  # False for NaN
    return ops.where(ops.logical_or(spread, harmless), x, ops.zeros_like(x))


def at_real_tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` of tokens, (B, T, D) or (B, H, T, d), with 0 where the mask (B, T) hides them; None = it hides none."""
    if mask is None:
        return x
    real = ops.expand_dims(mask, -1)
    return ops.where(ops.expand_dims(real, 1) if len(x.shape) == 4 else real, x, ops.zeros_like(x))


def defused_inputs(inputs: Any, sample_weight: Tensor | None) -> Any:
    """The float tensors of a batch's inputs, defused in rows of weight 0: a student's weights see a row's features."""
    counted = _counted_rows(sample_weight)
    return inputs if counted is None else keras.tree.map_structure(lambda x: _defused_rows(x, counted), inputs)


def defused_outputs(outputs: Outputs, sample_weight: Tensor | None) -> Outputs:
    """Logits and taps, defused in rows of weight 0."""
    counted = _counted_rows(sample_weight)
    if counted is None:
        return outputs
    taps = {name: _defused_rows(tap, counted) for name, tap in outputs.taps.items()}
    return outputs._replace(logits=_defused_rows(outputs.logits, counted), taps=taps)


def _counted_rows(sample_weight: Tensor | None) -> Tensor | None:
    """(B,) bool: rows with a weight other than 0, or a token that has one."""
    if sample_weight is None:
        return None
    counted = ops.not_equal(sample_weight, 0)
    return ops.any(counted, axis=tuple(range(1, len(counted.shape)))) if len(counted.shape) > 1 else counted


def _defused_rows(x: Any, counted: Tensor) -> Any:
    """Only what has a value for each row: a batch may hold more."""
    by_row = isinstance(x, tf.Tensor) and x.dtype.is_floating and x.shape.rank
    return defused(x, counted) if by_row and x.shape[0] == counted.shape[0] else x
