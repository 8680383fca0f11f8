"""BERT's pre-training on hidden tokens (Devlin et al. 2019, section 3.1, task 1): an encoder that is asked for them."""

from pathlib import Path
from typing import Any, Self

import keras

from keras_transformer.layers import TokenBias
from keras_transformer.layers.encoder import layer_norm
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, dense
from keras_transformer.models.configuration import argument, config_of, model_of
from keras_transformer.models.encoded_text import EPSILON, encoded_text, ranks_of_text
from keras_transformer.pretrained import bert


@keras.saving.register_keras_serializable("keras_transformer")
class MaskedLM(keras.Model):
    """Token ids (B, T) int32, 0 = padding -> float32 logits (B, T, V) of the token that stood at each place.

    LN(gelu(h W + b)) E^T + c with E the token table: the head of the released BERT. It trains on batches of
    `keras_transformer.data.masking.hide_tokens` with `MaskedCrossEntropy`; next-sentence prediction is left out,
    which Liu et al. 2019, section 4.2, found to do no harm.

    The graph is Functional, so `summary`, `get_layer` and `.keras` files work as ever. `tap_tensors` names what it
    computes on the way: `embeddings`, `mask`, and for each layer `encoder/0/hidden`, `.../attention`, `.../query`,
    `.../key`, `.../value`. The encoder's layers are named as `TextClassifier` names them. Padding stands at the end
    of a row: positions are counted from its start.

    Args:
        vocab_size: number of token ids V.
        num_layers: encoder layers.
        model_dim: width D.
        num_heads: heads H; divides D unless `head_dim` is given.
        inner_dim: width F of the feed-forward parts.
        max_length: longest input; the table of learned positions has so many rows.
        embedding_dim: width of a factorised token table, see `TokenEmbedding`; None = D, no factor. The logits then
            go through the same factor.
        dropout: rate while training, on embeddings, attention weights and each part's output.
        norm_first: True for pre-norm layers and a final LayerNorm.
        head_dim: width of one head; None = D / H.
        ranks: of factorised dense products, by path: {"encoder_0/attention/query": 32}; None = none. See `compression`.

    Raises:
        ValueError: for a number out of range, or heads that don't divide the width.
    """

    def __init__(
        self,
        vocab_size: int,
        num_layers: int,
        model_dim: int,
        num_heads: int,
        inner_dim: int,
        *,
        max_length: int = 512,
        embedding_dim: int | None = None,
        dropout: float = 0.1,
        norm_first: bool = False,
        head_dim: int | None = None,
        ranks: Ranks | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Check the numbers, build the graph, keep the arguments for the config."""
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        arguments: dict[str, Any] = {
            "vocab_size": vocab_size,
            "num_layers": num_layers,
            "model_dim": model_dim,
            "num_heads": num_heads,
            "inner_dim": inner_dim,
            "max_length": max_length,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
            "norm_first": norm_first,
            "head_dim": head_dim,
        }
        part_ranks = ranks_of_text(ranks, num_layers, "transform")
        text = encoded_text(**arguments, kept_pieces=None, ranks=part_ranks, policy=policy)
        x = dense(model_dim, part_ranks["transform"], activation="gelu", name="transform", dtype=policy)(text.hidden)
        x = layer_norm("transform_norm", EPSILON, policy)(x)
        # Logits are float32 whatever the policy: losses and softmax start from them.
        logits = TokenBias(name="logits", dtype="float32")(text.tokens(x, as_logits=True))

        super().__init__(text.token_ids, logits, name=name)
        self.dtype_policy = policy  # `compile` scales the loss when it says mixed_float16
        self.tap_tensors: dict[str, Tensor] = text.taps
        changed = {"head_dim": text.head_dim, "ranks": dict(ranks) if ranks else None}
        self._arguments: dict[str, Any] = {**arguments, **changed}

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, dropout: float = 0.1, name: str | None = None, dtype: Any = None
    ) -> Self:
        """Build the model that a Hugging Face folder of a BertForMaskedLM or BertForPreTraining describes.

        Args:
            folder: holds `config.json` and `model.safetensors`.
            dropout: rate while training.
            name: of the model.
            dtype: a Keras dtype policy; None = the global one.

        Raises:
            ModelFileError: if a file or tensor is missing, extra, of another shape or cut short.
        """
        model = cls(dropout=dropout, name=name, dtype=dtype, **bert.read_config(folder)._asdict())
        bert.load_weights(model, folder)
        return model

    def call(
        self, inputs: Tensor | dict[str, Tensor], training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T), or a dict that has them as "token_ids" -> logits (B, T, V). `mask` isn't used."""
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
