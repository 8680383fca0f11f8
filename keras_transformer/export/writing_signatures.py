"""The signatures of a `.tflite` file that writes: one token at a time, the state as tensors in and out."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_transformer.export.lite_state import NEW, POSITION, TOKEN_IDS
from keras_transformer.export.lite_steps import LOGITS, MEMORY_MASK, PROMPT, STEP
from keras_transformer.export.signature_names import TOKENS
from keras_transformer.export.writing import Writing, whole_function
from keras_transformer.layers.cache import KeyValues, with_room
from keras_transformer.tasks import LANGUAGE_MODEL


def lite_signatures(writing: Writing) -> dict[str, Any]:
    """The concrete functions of a `.tflite` file, for one text at a time.

    `prompt` takes `token_ids` (1, T) and gives `logits` (1, V) and a state of tensors. `step` takes `token_ids` (1,)
    and the state, and gives the next logits, the next position and, as `new_key_0` and so on, what belongs to place
    `position` of each cache: the caller's memory stays where it is, and nothing in the graph copies it. All shapes of
    a step are fixed: that is what LiteRT runs fastest. It is the first graph of the file, whose inputs' memory LiteRT
    lets the caller write to. A language model also has `tokens`, ids (1, T) -> logits (1, T, V), for texts that are
    there already.
    """
    state: list[Any] = []  # as the model nests it, found while `prompt` is traced

    @tf.function(input_signature=[tf.TensorSpec((1, None), tf.int32, TOKEN_IDS)], autograph=False)
    def prompt(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, begun = writing.begin(token_ids)
        begun = _of_fixed_shape(begun, writing.max_length)
        state.append(begun)
        return {LOGITS: tf.cast(logits, tf.float32), **_named(begun)}

    begins = prompt.get_concrete_function()
    (nested,) = state
    names = list(_named(nested))

    @tf.function(autograph=False)
    def step(token_ids: tf.Tensor, **given: tf.Tensor) -> dict[str, tf.Tensor]:
        before = tf.nest.pack_sequence_as(nested, [given[name] for name in names])
        logits, own = writing.model.step_beside(token_ids, before)
        added = {NEW + name: leaf for name, leaf in _by_layer(own).items()}
        return {LOGITS: tf.cast(logits, tf.float32), POSITION: before.position + 1, **added}

    specs = {name: tf.TensorSpec(leaf.shape, leaf.dtype, name) for name, leaf in _named(nested).items()}
    found = {STEP: step.get_concrete_function(tf.TensorSpec((1,), tf.int32, TOKEN_IDS), **specs), PROMPT: begins}
    if writing.task == LANGUAGE_MODEL:
        found[TOKENS] = whole_function(writing, batch=1)
    return found


def _of_fixed_shape(state: Any, room: int) -> Any:
    """The state of one text with `room` places for the source too, and its shapes known."""
    if state.memory:
        real = state.memory_mask  # (1, S)
        rest = tf.zeros(tf.stack([1, room - tf.shape(real)[1]]), tf.bool)
        state = state._replace(
            memory=tuple(with_room(known, room) for known in state.memory),
            memory_mask=tf.reshape(tf.concat([real, rest], axis=1), (1, room)),
        )
    return tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (1, *leaf.shape[1:])), state)


def _named(state: Any) -> dict[str, tf.Tensor]:
    """The leaves of a state, each by a name."""
    leaves = {POSITION: state.position, **_by_layer(state.caches)}
    if not state.memory:
        return leaves
    return {**leaves, **_by_layer(state.memory, "memory_"), MEMORY_MASK: state.memory_mask}


def _by_layer(layers: Sequence[KeyValues], kind: str = "") -> dict[str, tf.Tensor]:
    named: dict[str, tf.Tensor] = {}
    for index, known in enumerate(layers):
        named |= {f"{kind}key_{index}": known.key, f"{kind}value_{index}": known.value}
    return named
