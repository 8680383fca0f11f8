"""Token and segment embeddings; the token table may be factorised and cut to the pieces that a domain needs."""

from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive, positive_integer
from keras_transformer.layers.masks import Tensor


@keras.saving.register_keras_serializable("keras_transformer")
class TokenEmbedding(keras.layers.Layer):
    """Look up a learned row for each token id: (B, T) integers -> (B, T, D).

    With `embedding_dim` E the table is factorised into (V, E) and (E, D) (ALBERT, Lan et al. 2020, section 3.1).
    With `kept_pieces` K the table has K rows, and a weight of V integers, `piece_row`, says which row each id takes:
    a model with a smaller vocabulary then still reads the ids of the full one.

    Args:
        vocab_size: number of token ids V that may come in.
        model_dim: width D of the output.
        embedding_dim: width E of the table; None = D, no factor.
        kept_pieces: rows K of the table; None = V, no map.
        scale: what each vector is multiplied by: sqrt(D) in Vaswani et al. 2017, section 3.4.
    """

    def __init__(
        self,
        vocab_size: int,
        model_dim: int,
        embedding_dim: int | None = None,
        kept_pieces: int | None = None,
        scale: float = 1.0,
        **layer_options: Any,
    ) -> None:
        super().__init__(**layer_options)
        positive_integer("vocab_size", vocab_size)
        positive_integer("model_dim", model_dim)
        if embedding_dim is not None:
            positive_integer("embedding_dim", embedding_dim)
        if kept_pieces is not None:
            positive_integer("kept_pieces", kept_pieces)
            if kept_pieces > vocab_size:
                raise ValueError(
                    f"kept_pieces={kept_pieces} is more than vocab_size={vocab_size}: pieces can only be dropped. "
                    f"Use kept_pieces=None to keep all, or a number below {vocab_size}."
                )
        positive("scale", scale)
        self.vocab_size, self.model_dim, self.scale = vocab_size, model_dim, scale
        self.embedding_dim, self.kept_pieces = embedding_dim, kept_pieces
        self.factor = None
        if embedding_dim is not None:
            self.factor = keras.layers.Dense(model_dim, use_bias=False, name="factor", dtype=self.dtype_policy)

    def build(self, input_shape: tuple) -> None:
        """Make the table, and the factor and the map where they were asked for."""
        self.table = self.add_weight(
            shape=(self.kept_pieces or self.vocab_size, self.embedding_dim or self.model_dim),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="table",
            autocast=False,  # cast the few rows looked up, not the whole table
        )
        if self.kept_pieces is not None:
            self.piece_row = self.add_weight(
                shape=(self.vocab_size,),
                initializer="zeros",
                dtype="int32",
                trainable=False,
                name="piece_row",
            )
        if self.factor is not None:
            self.factor.build((*input_shape, self.embedding_dim))

    def call(self, token_ids: Tensor) -> Tensor:
        """(B, T) ids in 0..V-1 -> (B, T, D). Ids out of range are the caller's to catch: kernels don't agree."""
        rows = token_ids if self.kept_pieces is None else ops.take(self.piece_row, token_ids, axis=0)
        embedded = ops.cast(ops.take(self.table, rows, axis=0), self.compute_dtype)  # (B, T, E or D)
        vectors = embedded if self.factor is None else self.factor(embedded)  # (B, T, D)
        return vectors if self.scale == 1.0 else vectors * self.scale

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, T) -> (B, T, D)."""
        return (*input_shape, self.model_dim)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "vocab_size": self.vocab_size,
            "model_dim": self.model_dim,
            "embedding_dim": self.embedding_dim,
            "kept_pieces": self.kept_pieces,
            "scale": self.scale,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_transformer")
class SegmentEmbedding(keras.layers.Layer):
    """x + the learned row of segment 0: BERT's token types (Devlin et al. 2019, section 3) for one-segment input.

    Args:
        num_segments: rows of the table. BERT has 2; the others are kept so that weights go back as they came.
    """

    def __init__(self, num_segments: int = 2, **layer_options: Any) -> None:
        super().__init__(**layer_options)
        positive_integer("num_segments", num_segments)
        self.num_segments = num_segments

    def build(self, input_shape: tuple) -> None:
        """Make the table (num_segments, D)."""
        self.table = self.add_weight(
            shape=(self.num_segments, input_shape[-1]),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="table",
        )

    def call(self, x: Tensor) -> Tensor:
        """(B, T, D) -> the same shape."""
        return x + ops.cast(self.table, self.compute_dtype)[0]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "num_segments": self.num_segments}
