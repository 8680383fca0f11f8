"""What stands behind "[MASK]": a masked language model as a classifier over its pieces, which every export takes."""

import keras
from keras import ops

from keras_transformer.layers.masks import Tensor
from keras_transformer.models.masked_lm import MaskedLM

HEAD = ("transform", "transform_norm")


def hidden_token(model: MaskedLM, mask_id: int) -> keras.Model:
    """Token ids (B, T) int32, 0 = padding -> float32 logits (B, V) of the piece that the first `mask_id` hides.

    The same weights as `model`, whose head runs at one place of T: its logits are `model(ids)[b, t]` with t the first
    place of `mask_id` in row b, or 0 where there is none. With a tokenizer that reads "[MASK]" and its pieces as
    labels it is a classifier like any other:

    >>> tokenizer = WordPiece(tokenizer.vocab, reads_mask=True)
    >>> asked = hidden_token(model, tokenizer.asked_id)
    >>> export.tflite(asked, "film.tflite", tokenizer=tokenizer, labels=tokenizer.vocab, max_length=128,
    ...               examples=["The film was [MASK]."])
    >>> serving.load("film.tflite").predict(["The film was [MASK]."]).labels

    Args:
        model: reads the ids.
        mask_id: the id of [MASK].

    Raises:
        ValueError: if `mask_id` isn't in the vocabulary.
    """
    if not 0 < mask_id < model.vocab_size:
        raise ValueError(f"mask_id={mask_id} must be 1 to {model.vocab_size - 1}. Use that of the tokenizer's [MASK].")
    token_ids = model.inputs[0]  # (B, T)
    x = _first(model.get_layer(HEAD[0]).input, ops.equal(token_ids, mask_id))  # (B, 1, D)
    for name in HEAD:
        x = model.get_layer(name)(x)
    logits = model.get_layer("logits")(model.get_layer("tokens")(x, as_logits=True))  # (B, 1, V)
    return keras.Model(token_ids, ops.squeeze(logits, 1), name=f"{model.name}_hidden_token")


def _first(x: Tensor, chosen: Tensor) -> Tensor:
    """(B, T, D) -> (B, 1, D): the vector at the first chosen place of each row."""
    place = ops.argmax(ops.cast(chosen, "int32"), axis=1, keepdims=True)  # (B, 1)
    return ops.take_along_axis(x, ops.expand_dims(place, 2), axis=1)
