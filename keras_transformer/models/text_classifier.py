"""A text classifier: BERT's encoder (Devlin et al. 2019, section 3), a pooling and one dense layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import keras

from keras_transformer.checks import one_of, positive_integer
from keras_transformer.layers import FirstTokenPooling, MeanPooling
from keras_transformer.layers.integer_policy import policy_of_outputs
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, dense
from keras_transformer.models.configuration import argument, config_of, model_of
from keras_transformer.models.encoded_text import EncodedText, encoded_text, ranks_of_text
from keras_transformer.pretrained import bert

POOLINGS = ("mean", "first")


@keras.saving.register_keras_serializable("keras_transformer")
class TextClassifier(keras.Model):
    """Token ids (B, T) int32, 0 = padding -> float32 logits (B, num_classes).

    The graph is Functional, so `summary`, `get_layer` and `.keras` files work as ever. `tap_tensors` names what it
    computes on the way: `embeddings`, `mask`, `pooled`, and for each layer `encoder/0/hidden`, `.../attention`,
    `.../query`, `.../key`, `.../value`. Padding stands at the end of a row: positions are counted from its start.

    Args:
        vocab_size: number of token ids V.
        num_classes: number of logits.
        num_layers: encoder layers.
        model_dim: width D.
        num_heads: heads H; divides D unless `head_dim` is given.
        inner_dim: width F of the feed-forward parts.
        max_length: longest input; the table of learned positions has so many rows.
        embedding_dim: width of a factorised token table, see `TokenEmbedding`; None = D, no factor.
        kept_pieces: rows of the token table when it is smaller than V, see `TokenEmbedding`.
        dropout: rate while training, on embeddings, attention weights, each part's output, and the pooled vector.
        pooling: "mean" over real tokens, or "first": BERT's pooler on [CLS].
        norm_first: True for pre-norm layers and a final LayerNorm.
        head_dim: width of one head; None = D / H.
        ranks: of factorised dense products, by path: {"encoder_0/attention/query": 32}; None = none. See `compression`.

    Raises:
        ValueError: for a number out of range, heads that don't divide the width, or an unknown pooling.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        num_layers: int,
        model_dim: int,
        num_heads: int,
        inner_dim: int,
        *,
        max_length: int = 512,
        embedding_dim: int | None = None,
        kept_pieces: int | None = None,
        dropout: float = 0.1,
        pooling: str = "mean",
        norm_first: bool = False,
        head_dim: int | None = None,
        ranks: Ranks | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Check the numbers, build the graph, keep the arguments for the config."""
        positive_integer("num_classes", num_classes)
        one_of("pooling", pooling, POOLINGS)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        trunk: dict[str, Any] = {
            "vocab_size": vocab_size,
            "num_layers": num_layers,
            "model_dim": model_dim,
            "num_heads": num_heads,
            "inner_dim": inner_dim,
            "max_length": max_length,
            "embedding_dim": embedding_dim,
            "kept_pieces": kept_pieces,
            "dropout": dropout,
            "norm_first": norm_first,
            "head_dim": head_dim,
        }
        parts = ("pooling", "logits") if pooling == "first" else ("logits",)
        part_ranks = ranks_of_text(ranks, num_layers, *parts)
        text = encoded_text(**trunk, ranks=part_ranks, policy=policy)
        pooled = _pool(pooling, text, part_ranks, policy)
        dropped = keras.layers.Dropout(dropout, name="pooled_dropout", dtype=policy)(pooled)
        logits = dense(num_classes, part_ranks["logits"], name="logits", dtype=policy_of_outputs(policy))(dropped)

        super().__init__(text.token_ids, logits, name=name)
        self.dtype_policy = policy  # `compile` scales the loss when it says mixed_float16
        self.tap_tensors: dict[str, Tensor] = {**text.taps, "pooled": pooled}
        head = {"num_classes": num_classes, "pooling": pooling, "head_dim": text.head_dim}
        self._arguments: dict[str, Any] = {**trunk, **head, "ranks": dict(ranks) if ranks else None}

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        num_classes: int,
        *,
        dropout: float = 0.1,
        pooling: str = "mean",
        name: str | None = None,
        dtype: Any = None,
    ) -> Self:
        """Build the model that a Hugging Face folder of a BERT describes, with its weights; the head is new.

        Args:
            folder: holds `config.json` and `model.safetensors`.
            num_classes: number of logits.
            dropout: rate while training.
            pooling: "mean" or "first"; with "first" the folder's pooler is used.
            name: of the model.
            dtype: a Keras dtype policy; None = the global one.

        Raises:
            ModelFileError: if a file or tensor is missing, extra, of another shape or cut short.
        """
        config = bert.read_config(folder)
        model = cls(
            num_classes=num_classes,
            dropout=dropout,
            pooling=pooling,
            name=name,
            dtype=dtype,
            **config._asdict(),
        )
        bert.load_weights(model, folder)
        return model

    def call(
        self, inputs: Tensor | dict[str, Tensor], training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T), or a dict that has them as "token_ids" -> logits (B, num_classes). `mask` isn't used."""
        # Batches come as dicts, since a teacher's logits may travel with the ids; Keras warns of a dict of one.
        token_ids = inputs["token_ids"] if isinstance(inputs, dict) else inputs
        return super().call(token_ids, training=training)

    def __getattr__(self, name: str) -> Any:
        """Offer each constructor argument under its own name."""
        return argument(self, name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, and the names of the layers that are frozen."""
        return config_of(self, self._arguments)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Build the model from what `get_config` returned."""
        return model_of(cls, config)


def _pool(pooling: str, text: EncodedText, ranks: Mapping[str, Ranks], policy: Any) -> Tensor:
    if pooling == "mean":
        return MeanPooling(name="pooling", dtype=policy)(text.hidden, real=text.real)
    return FirstTokenPooling(ranks["pooling"], name="pooling", dtype=policy)(text.hidden)
