"""What every model that writes texts does with its decoder: it goes on, token by token, on an explicit state."""

import keras

from keras_transformer.layers import KeyValues
from keras_transformer.layers.masks import Tensor
from keras_transformer.models.branches import Branches
from keras_transformer.models.decoder_stack import DecoderStack
from keras_transformer.models.decoder_state import DecoderState


class Generating(keras.Model):
    """A model with a decoder `stack`; its `prompt` gives the first state."""

    stack: DecoderStack

    def extend(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read K more tokens of each row, (B, K) -> logits (B, K, V) after each, and the state with them.

        All K count, 0 too. They must fit into the room of the state.
        """
        return self.stack.extend(token_ids, state)

    def step(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one more token of each row, (B,) -> logits (B, V) of the next, and the state with it."""
        return self.stack.step(token_ids, state)

    def step_beside(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, tuple[KeyValues, ...]]:
        """As `step`, for a caller that owns the caches' memory and writes into it.

        (B,) -> logits (B, V) of the next token, and a key and a value (B, G, 1, d) for each layer, which belong to
        place `position` of its cache. Nothing is copied, where `step` gives new caches.
        """
        return self.stack.step_beside(token_ids, state)

    def branch(self, state: DecoderState, width: int, more: int) -> Branches:
        """Let each text go on in `width` ways, with room for `more` tokens of each; see `models.branches`.

        Raises:
            ValueError: if the model hasn't learned so many positions.
        """
        return self.stack.branch(state, width, more)

    def step_branches(self, token_ids: Tensor, state: Branches) -> tuple[Tensor, Branches]:
        """Read one more token of each branch, (B W,) -> logits (B W, V), and the state; see `models.branches`."""
        return self.stack.step_branches(token_ids, state)
