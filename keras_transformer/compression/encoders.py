"""Which models can be looked into and cut here: those whose layers are the encoder's of a `TextClassifier`."""

from typing import Any

import keras

SIZES = ("num_layers", "model_dim", "num_heads", "head_dim", "inner_dim")


def encoder_config(model: keras.Model) -> dict[str, Any]:
    """Return `get_config` of a model that is made as `TextClassifier` is.

    Raises:
        ValueError: if a size isn't in its config; if it has decoder layers, whose parts have other names; if some of
            its products are factorised.
    """
    config = model.get_config()
    missing = [size for size in SIZES if size not in config]
    if missing:
        raise ValueError(
            f"{model.name!r} ({type(model).__name__}) can't be cut: its config has no {missing}. "
            "Use a TextClassifier, or a class made like it."
        )
    if config.get("ranks"):
        raise ValueError(
            f"{model.name!r} ({type(model).__name__}) can't be cut: it has ranks for {len(config['ranks'])} dense "
            f"products, {next(iter(config['ranks']))!r} among them, and what is known here is where whole kernels have "
            "heads, units and channels. Cut the model that it came from, or compression.fuse(model, "
            "compression.factored_ranks(model))."
        )
    decoders = [layer.name for layer in model.layers if layer.name.startswith("decoder_")]
    if decoders:
        raise ValueError(
            f"{model.name!r} ({type(model).__name__}) can't be cut: it has decoder layers {decoders}, and what is "
            "known here is where an encoder's heads, units, channels and layers are. "
            "Use a TextClassifier or a MaskedLM, or distil into a decoder that is built smaller."
        )
    return config
