"""Products on each token by itself: as one matrix, and back, with lengths that stay constants where they can.

A 2-D product is one kernel call everywhere, fused with bias and activation where the runtime knows how; and LiteRT's
fast path takes a reshape only to constant lengths.
"""

from keras import ops

from keras_transformer.layers.masks import Tensor


def as_matrix(x: Tensor) -> Tensor:
    """(..., D) -> (N, D), N the product of the other lengths."""
    return ops.reshape(x, (-1, x.shape[-1]))


def leading_lengths(x: Tensor) -> tuple:
    """All lengths of `x` but the last, for a reshape: numbers where they are known, -1 for one alone that isn't."""
    known = tuple(x.shape[:-1])
    if known.count(None) > 1:
        return tuple(ops.shape(x)[:-1])
    return tuple(-1 if length is None else length for length in known)
