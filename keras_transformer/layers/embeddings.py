"""Token and segment embeddings; the token table may be factorised and cut to the pieces that a domain needs."""

from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive, positive_integer
from keras_transformer.layers.dense import Dense
from keras_transformer.layers.fake_quantization import fake_quantize
from keras_transformer.layers.integer_policy import IntegerPolicy
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.per_token import as_matrix, leading_lengths

FEW_TOKENS = 16
"""New tokens a row up to which a call for logits counts as a decoding step."""


@keras.saving.register_keras_serializable("keras_transformer")
class TokenEmbedding(keras.layers.Layer):
    """Look up a learned row for each token id: (B, T) integers -> (B, T, D).

    With `embedding_dim` E the table is factorised into (V, E) and (E, D) (ALBERT, Lan et al. 2020, section 3.1).
    With `kept_pieces` K the table has K rows, and a weight of V integers, `piece_row`, says which row each id takes:
    a model with a smaller vocabulary then still reads the ids of the full one.

    A fresh map sends id i to row i mod K, as hashed features do (Weinberger et al. 2009): every row is in use, and
    padding and the other special pieces, whose ids are the lowest, keep their own. So a fresh or cloned model tells
    texts apart and can be trained as it is; which pieces are alike it doesn't know. `compression.cut` sets the map.

    Called with `as_logits` it goes the other way, from hidden states to a float32 logit for each token, through the
    same weights and without a bias: tied embeddings (Press & Wolf 2017; Vaswani et al. 2017, section 3.4). That is
    a second call of one layer and not a layer of its own, so that clones of a model and files keep the two tied.

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
            self.factor = Dense(model_dim, use_bias=False, name="factor", dtype=self.dtype_policy)

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
                initializer=self._fresh_map,
                dtype="int32",
                trainable=False,
                name="piece_row",
            )
        if self.factor is not None:
            self.factor.build((*input_shape, self.embedding_dim))

    def _fresh_map(self, shape: tuple, dtype: str) -> Tensor:
        return ops.mod(ops.arange(shape[0], dtype=dtype), self.kept_pieces)

    def call(self, inputs: Tensor, *, as_logits: bool = False) -> Tensor:
        """(B, T) ids in 0..V-1 -> (B, T, D); with `as_logits`, hidden states (B, T, D) -> (B, T, V) float32.

        Ids out of range are the caller's to catch: kernels don't agree.

        Raises:
            ValueError: for logits through a table that was cut to `kept_pieces`: tokens would share one logit.
        """
        if as_logits:
            return self._logits(inputs)
        rows = inputs if self.kept_pieces is None else ops.take(self.piece_row, inputs, axis=0)
        embedded = ops.cast(ops.take(self.table, rows, axis=0), self.compute_dtype)  # (B, T, E or D)
        if isinstance(self.dtype_policy, IntegerPolicy):  # the few rows looked up, in the range of the whole table
            embedded = fake_quantize(embedded, ops.min(self.table), ops.max(self.table))
        vectors = embedded if self.factor is None else self.factor(embedded)  # (B, T, D)
        return vectors if self.scale == 1.0 else vectors * self.scale

    def _logits(self, hidden: Tensor) -> Tensor:
        """h E^T with E the table, or h F^T E^T with a factor F; the table isn't cast: each step would do it anew."""
        if self.kept_pieces is not None:
            raise ValueError(
                f"kept_pieces={self.kept_pieces} of vocab_size={self.vocab_size} leaves tokens without a row of "
                "their own, so they can't be told apart as output. Use kept_pieces=None, "
                "or an output projection that isn't tied."
            )
        rows = ops.cast(as_matrix(hidden), "float32")  # (B * T, D)
        if self.factor is not None:
            rows = ops.matmul(rows, ops.transpose(ops.cast(self.factor.kernel, "float32")))  # (B * T, E)
        if _is_a_step_of_several_rows(hidden.shape):
            logits = ops.transpose(ops.matmul(self.table, ops.transpose(rows)))  # (B * T, V)
        else:
            logits = ops.matmul(rows, ops.transpose(self.table))  # (B * T, V)
        return ops.reshape(logits, (*leading_lengths(hidden), self.vocab_size))

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


def _is_a_step_of_several_rows(shape: tuple) -> bool:
    """Tell where TensorFlow would take five times as long to multiply by a transposed table as by the table.

    For one row alone it doesn't, and there the plain product is the fully connected layer that LiteRT has.
    """
    return shape[1] is not None and shape[1] <= FEW_TOKENS and tuple(shape[:2]) != (1, 1)


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
