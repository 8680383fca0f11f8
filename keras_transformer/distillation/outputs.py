"""What one forward pass hands to the losses."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from keras_transformer.layers.masks import Tensor


class Outputs(NamedTuple):
    """One side's forward pass: the student's or the teacher's.

    `taps` holds just the tensors that some term named, for example "encoder/2/hidden" (B, T, D). `mask` is
    True at real tokens; None = the model tells no token from padding. `counted` narrows down which real tokens a
    loss of one value a token is asked for, while losses still see all of them; the Distiller reads the student's.
    """

    logits: Tensor  # (B, C) or (B, T, V), any float dtype
    taps: Mapping[str, Tensor] = MappingProxyType({})
    mask: Tensor | None = None  # (B, T) bool
    counted: Tensor | None = None  # (B, T) bool; None = all real tokens
