"""Logits through the token table itself: tied embeddings (Press & Wolf 2017; Vaswani et al. 2017, section 3.4)."""

from dataclasses import dataclass
from typing import Any, Self

import keras
from keras import ops

from keras_transformer.layers.embeddings import TokenEmbedding
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.per_token import as_matrix, leading_lengths

FEW_TOKENS = 16
"""Tokens a row up to which the small side of the product is turned, not the table."""


@dataclass(frozen=True)
class SharedEmbedding:
    """Hides a layer from Keras, which would look for its weights in a file once more for each layer that shares it."""

    embedding: TokenEmbedding


@keras.saving.register_keras_serializable("keras_transformer")
class TiedLogits(keras.layers.Layer):
    """h E^T with E the table of a `TokenEmbedding`; with a factor F, h F^T E^T. No weights of its own, no bias.

    The result is float32, and the table is used as it stands: no cast of all its rows for each token.

    Args:
        embedding: the layer that looks the tokens up. It must be a layer of the model, too, which then trains and
            saves its table, once.

    Raises:
        ValueError: if the table was cut to `kept_pieces`: several tokens would share one logit.
    """

    def __init__(self, embedding: TokenEmbedding, **layer_options: Any) -> None:
        super().__init__(**layer_options)
        if embedding.kept_pieces is not None:
            raise ValueError(
                f"kept_pieces={embedding.kept_pieces} of vocab_size={embedding.vocab_size} leaves tokens without a row "
                "of their own, so they can't be told apart as output. Use kept_pieces=None, "
                "or an output projection that isn't tied."
            )
        self.shared = SharedEmbedding(embedding)

    def build(self, input_shape: tuple) -> None:
        """Make the table where the embedding wasn't called before."""
        if not self.shared.embedding.built:
            self.shared.embedding.build((None, None))

    def call(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V) float32."""
        embedding = self.shared.embedding
        rows = ops.cast(as_matrix(hidden), "float32")  # (B * T, D)
        if embedding.factor is not None:
            rows = ops.matmul(rows, ops.transpose(ops.cast(embedding.factor.kernel, "float32")))  # (B * T, E)
        if _few(hidden.shape):
            logits = ops.transpose(ops.matmul(embedding.table, ops.transpose(rows)))  # (B * T, V)
        else:
            logits = ops.matmul(rows, ops.transpose(embedding.table))  # (B * T, V)
        return ops.reshape(logits, (*leading_lengths(hidden), embedding.vocab_size))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, T, D) -> (B, T, V)."""
        return (*input_shape[:-1], self.shared.embedding.vocab_size)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; within one file Keras makes it one object again."""
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.shared.embedding)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build the layer from what `get_config` returned."""
        embedding = keras.saving.deserialize_keras_object(config["embedding"])
        return cls(**{**config, "embedding": embedding})


def _few(shape: tuple) -> bool:
    """Tell a decoding step of several rows: there TensorFlow multiplies by a transposed table five times slower.

    One row alone costs the same either way, and the plain product is the fully connected layer that LiteRT has.
    """
    return shape[1] is not None and shape[1] <= FEW_TOKENS and shape[:2] != (1, 1)
