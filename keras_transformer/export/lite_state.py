"""What a `.tflite` file that writes remembers of a text, between two calls. Imports neither TensorFlow nor Keras."""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np

POSITION, TOKEN_IDS = "position", "token_ids"
NEW = "new_"
"""Before the name of a cache: the key or value of one token, for a place in it."""

Arrays = Mapping[str, np.ndarray]


class Caches:
    """Keys and values of a text by name, each (1, G, S, d); the places before `filled` are known, the rest is free."""

    def __init__(self, arrays: Arrays, filled: int) -> None:
        self.arrays, self.filled = arrays, filled

    def put(self, added: Arrays) -> None:
        """Fill the next place of each with a key or value (1, G, 1, d)."""
        for name, one in added.items():
            self.arrays[name][:, :, self.filled] = one[:, :, 0]
        self.filled += 1

    def until(self, position: int) -> Self:
        """These, if nothing was put at `position` or behind it; else a copy in which nothing was."""
        if self.filled == position:
            return self
        return type(self)({name: array.copy() for name, array in self.arrays.items()}, position)


class TextState(NamedTuple):
    """A text of `position` tokens. Texts that go on from one another share caches: each sees the places before its own
    position alone, so filling the next one changes no other text.
    """

    position: int
    caches: Caches
    fixed: Arrays  # of a translator, what its source became

    @classmethod
    def of(cls, outputs: Arrays, caches: set[str]) -> Self:
        """Out of what `prompt` gives but the logits; `caches` are the names of those that a step adds to."""
        position = int(outputs[POSITION][0])
        fixed = {name: array for name, array in outputs.items() if name not in {*caches, POSITION}}
        return cls(position, Caches({name: outputs[name] for name in caches}, position), fixed)

    def inputs(self, token_id: int) -> dict[str, np.ndarray]:
        """What the signature `step` takes to add a token."""
        small = {TOKEN_IDS: np.array([token_id], np.int32), POSITION: np.array([self.position], np.int32)}
        return {**small, **self.caches.arrays, **self.fixed}
