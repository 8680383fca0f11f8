"""Turn a model's next-token logits into texts: pure functions over `step`, for any model that has one.

`step(token_ids (B,), state) -> (logits (B, V), state)` adds one token to each row. The state is a nest of tensors
with the batch as their first axis; nothing is hidden in the model. Every function here runs eagerly, in a
`tf.function` and in an exported graph without XLA.
"""

from typing import Any

from keras_transformer.models.beam_search import Beams, beam, diverse_beam, gather_rows, length_penalty
from keras_transformer.models.sampling import sample
from keras_transformer.models.speculative import Speculated, speculative
from keras_transformer.models.token_loop import Decoded, Prompted, Step, Tensor, best_token, decode

__all__ = [
    "Beams",
    "Decoded",
    "Prompted",
    "Speculated",
    "Step",
    "beam",
    "diverse_beam",
    "gather_rows",
    "greedy",
    "length_penalty",
    "sample",
    "speculative",
]


def greedy(step: Step, prompted: Prompted, *, end_id: int, max_tokens: int, limits: Tensor | None = None) -> Decoded:
    """Take the likeliest token each time, the lowest id among equals, until end_id or `max_tokens`.

    Args:
        step: see the module.
        prompted: logits (B, V) of the first token, and the state; the state needs room for max_tokens - 1 more.
        end_id: the id that ends a row.
        max_tokens: the most tokens a row gets, end_id included.
        limits: (B,) int32, a number of at least 1 for each row, where it is less than max_tokens. The state of a row
            that has ended goes on to be stepped, so each row needs the same room.

    Raises:
        ValueError: if end_id or max_tokens isn't a whole number of at least 1.
    """

    def choose(logits: Tensor, index: Tensor, nothing: Any) -> tuple[Tensor, Any]:
        return best_token(logits), nothing

    return decode(step, prompted, choose, (), end_id=end_id, max_tokens=max_tokens, limits=limits)
