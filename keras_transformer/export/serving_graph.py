"""Write the SavedModel of a classifier: its signatures, and the tables and weights that they share."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_transformer.data.graph_tokenizer import GraphWordPiece
from keras_transformer.export.preparation import Prepared
from keras_transformer.export.signature_names import DEFAULT, ENCODE, TOKENS
from keras_transformer.export.signatures import TextModule, text_signatures


def write(prepared: Prepared, folder: Path) -> None:
    """Write the SavedModel of a prepared model into the new `folder`."""
    graph_tokenizer = GraphWordPiece(prepared.tokenizer, prepared.max_length)
    module = TextModule(prepared.model, graph_tokenizer)
    length = prepared.fixed_length
    asked = text_signatures(prepared.model, graph_tokenizer, prepared.labels, length, prepared.limits)
    functions = {DEFAULT: asked.classify, TOKENS: asked.tokens, ENCODE: asked.encode}
    save(module, folder, {name: one.get_concrete_function() for name, one in functions.items() if one is not None})


def save(module: tf.Module, folder: Path, signatures: dict[str, Any]) -> None:
    """Write a SavedModel of a module with these signatures, concrete functions by name, into the new `folder`."""
    # Debug information holds paths of this machine and is of no use to a server.
    options = tf.saved_model.SaveOptions(save_debug_info=False)
    tf.saved_model.save(module, str(folder), signatures=signatures, options=options)
