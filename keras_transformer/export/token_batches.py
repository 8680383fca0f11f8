"""Run token ids through a model in batches of like length, and put the answers back in order."""

from collections.abc import Callable, Sequence

import numpy as np

from keras_transformer.data.tokenizer import WordPiece

Run = Callable[[np.ndarray], np.ndarray]
"""(N, T) int32 token ids, 0 = padding -> (N, C) float32 logits."""


def run_in_batches(
    run: Run,
    token_ids: Sequence[Sequence[int]],
    tokenizer: WordPiece,
    *,
    num_classes: int,
    batch_size: int,
    length: int | None = None,
) -> np.ndarray:
    """Return the logits (N, C) float32 of N rows of ids, in their order.

    Rows of like length share a batch, so that little is padded; with `batch_size` 1 nothing is.

    Args:
        run: what runs one padded batch.
        token_ids: N rows of ids, of any lengths.
        tokenizer: pads the rows of a batch.
        num_classes: C, for the shape when N is 0.
        batch_size: rows in a batch, at most.
        length: pad every batch to it; None = to its own longest row.
    """
    logits = np.zeros((len(token_ids), num_classes), np.float32)
    order = np.argsort([len(row) for row in token_ids], kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer.pad([list(token_ids[index]) for index in chosen], length)
        logits[chosen] = run(batch)
    return logits
