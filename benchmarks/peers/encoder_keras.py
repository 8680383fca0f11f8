"""A classifier in Keras, ours or of KerasHub's layers: a forward pass and a training step."""

import json
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from peers.encoder_inputs import batch, matmul_rate, timed_steps

PACKAGES = ("tensorflow", "keras", "keras-hub")
POLICIES = {("no", "forward"): "float32", ("no", "train"): "float32"} | {
    ("yes", "forward"): "bfloat16",
    ("yes", "train"): "mixed_bfloat16",
}


def answers(maker: str, folder: str, bfloat16: str, xla: str, threads: str) -> dict[str, Any]:
    """`maker` is "ours" or "keras_hub"; the others are "yes" or "no", and a number."""
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    keras.utils.set_random_seed(0)
    size = json.loads((Path(folder) / "size.json").read_text())
    make, compiled = {"ours": ours, "keras_hub": of_keras_hub}[maker], xla == "yes"
    ids, labels = batch(size)
    known: dict[str, Any] = {}

    def logits() -> dict[str, Any]:
        return {"logits": make(size, Path(folder), "float32")(ids, training=False).numpy().tolist()}

    def forward(count: int) -> dict[str, Any]:
        if "forward" not in known:
            model = make(size, Path(folder), POLICIES[bfloat16, "forward"])
            known["forward"] = tf.function(lambda x: model(x, training=False), jit_compile=compiled, autograph=False)
        rows = tf.constant(ids)
        return timed_steps(lambda: known["forward"](rows).numpy(), count)

    def train(count: int) -> dict[str, Any]:
        if "train" not in known:
            model = make(size, Path(folder), POLICIES[bfloat16, "train"])
            model.compile(
                keras.optimizers.AdamW(size["rate"], weight_decay=0.01),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                jit_compile=compiled,
            )
            model.make_train_function()
            known["data"] = iter(tf.data.Dataset.from_tensors((ids, labels)).repeat())
            known["train"] = model.train_function
        return timed_steps(lambda: float(known["train"](known["data"])["loss"]), count)

    def peak(width: int) -> dict[str, Any]:
        one = tf.ones((width, width), "bfloat16" if bfloat16 == "yes" else "float32")
        return matmul_rate(lambda: tf.matmul(one, one)[0, 0].numpy(), width)

    return {"logits": logits, "forward": forward, "train": train, "peak": peak}


def ours(size: dict[str, Any], folder: Path, policy: str) -> keras.Model:
    """A `TextClassifier` with the weights of the folder."""
    from keras_transformer.models import TextClassifier

    model = TextClassifier(
        size["vocab_size"],
        size["num_classes"],
        size["num_layers"],
        size["model_dim"],
        size["num_heads"],
        size["inner_dim"],
        max_length=size["length"],
        dtype=policy,
    )
    model.load_weights(folder / "ours.weights.h5")
    return model


def of_keras_hub(size: dict[str, Any], folder: Path, policy: str) -> keras.Model:
    """The same shape out of KerasHub's layers, with weights of their own."""
    from keras_hub.layers import TokenAndPositionEmbedding, TransformerEncoder

    keras.config.set_dtype_policy(policy)
    token_ids = keras.Input((None,), dtype="int32")
    x = TokenAndPositionEmbedding(size["vocab_size"], size["length"], size["model_dim"])(token_ids)
    x = keras.layers.LayerNormalization(epsilon=1e-12)(x)
    x = keras.layers.Dropout(0.1)(x)
    real = ops.not_equal(token_ids, 0)
    for _ in range(size["num_layers"]):
        layer = TransformerEncoder(
            size["inner_dim"], size["num_heads"], dropout=0.1, activation="gelu", layer_norm_epsilon=1e-12
        )
        x = layer(x, padding_mask=real)
    pooled = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(token_ids, keras.layers.Dense(size["num_classes"], dtype="float32")(pooled))
