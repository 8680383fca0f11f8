"""The signatures of exported models that write: one token at a time for phones, whole texts for servers."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_transformer.data.continuations import WHOLE
from keras_transformer.data.in_graph import detokenizer_in_graph, tokenizer_in_graph
from keras_transformer.export.lite_steps import LOGITS, MEMORY_MASK, PROMPT, STEP, TOKEN_IDS
from keras_transformer.export.requirements import Limits
from keras_transformer.export.serving_graph import save
from keras_transformer.export.signatures import DEFAULT, TOKENS, BareWeights, checked_ids
from keras_transformer.export.writing import PreparedWriting, Writing, greedy_ids, whole_function
from keras_transformer.layers.cache import with_room
from keras_transformer.tasks import LANGUAGE_MODEL

GENERATE = "generate_tokens"


class WritingModule(BareWeights):
    """The weights, and the tokenizer of both directions with its tables."""

    def __init__(self, writing: Writing, graph_tokenizer: tf.Module, graph_detokenizer: tf.Module) -> None:
        super().__init__(writing.model)
        self.graph_tokenizer, self.graph_detokenizer = graph_tokenizer, graph_detokenizer


def lite_signatures(writing: Writing) -> dict[str, Any]:
    """The concrete functions of a `.tflite` file, for one text at a time.

    `prompt` takes `token_ids` (1, T) and gives `logits` (1, V) and a state of tensors. `step` takes `token_ids` (1,)
    and the state, and gives the next logits and what changed in the state, under the names that it came in with. All
    shapes of a step are fixed: that is what LiteRT runs fastest. A language model also has `tokens`, ids (1, T) ->
    logits (1, T, V), for texts that are there already.
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
        logits, after = writing.model.step(token_ids, before)
        changed = {name: leaf for name, leaf in _named(after).items() if leaf is not given[name]}
        return {LOGITS: tf.cast(logits, tf.float32), **changed}

    specs = {name: tf.TensorSpec(leaf.shape, leaf.dtype, name) for name, leaf in _named(nested).items()}
    found = {PROMPT: begins, STEP: step.get_concrete_function(tf.TensorSpec((1,), tf.int32, TOKEN_IDS), **specs)}
    if writing.task == LANGUAGE_MODEL:
        found[TOKENS] = whole_function(writing, batch=1)
    return found


def write_for_servers(prepared: PreparedWriting, folder: Path) -> None:
    """Write the SavedModel of a prepared model into the new `folder`.

    Raises:
        UserError: if the tokenizer can't run in the graph.
    """
    writing = prepared.writing
    # A language model reads the end of a long text, so it has to see all of it.
    longest = WHOLE if writing.task == LANGUAGE_MODEL else writing.max_length
    module = WritingModule(
        writing, tokenizer_in_graph(writing.tokenizer, longest), detokenizer_in_graph(writing.tokenizer)
    )
    save(module, folder, server_signatures(writing, prepared.limits, module))


def server_signatures(writing: Writing, allowed: Limits, module: WritingModule) -> dict[str, Any]:
    """The concrete functions of a SavedModel, for any number of texts at once; greedy, `writing.most` tokens at most.

    `serving_default`: `text` (N,) -> `output` (N,), the translation, or the text with its continuation, and `log_prob`
    (N,) float32, the sum over the new tokens. `generate_tokens`: `token_ids` (N, T) -> new `token_ids` (N, M), 0 after
    the end, and `log_prob`. `tokens`: the ids of the whole model -> `logits` (N, T, V).
    """
    read = Limits(allowed.vocab_size, writing.longest_prompt)

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, TOKEN_IDS)], autograph=False)
    def generate_tokens(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = greedy_ids(writing, checked_ids(token_ids, read), writing.most)
        return {TOKEN_IDS: decoded.token_ids, "log_prob": decoded.log_prob}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text")], autograph=False)
    def generate(text: tf.Tensor) -> dict[str, tf.Tensor]:
        read_ids = module.graph_tokenizer(text)  # (N, T), each row ending in the end
        if writing.task == LANGUAGE_MODEL:
            prompts = _last_ids(_begun(read_ids, writing.tokenizer.end_id), writing.longest_prompt)
            found = generate_tokens(prompts)
            output = tf.concat([read_ids, found[TOKEN_IDS]], axis=1)  # the end between them has no letters
        else:
            found = generate_tokens(read_ids)
            output = found[TOKEN_IDS]
        return {"output": module.graph_detokenizer(output), "log_prob": found["log_prob"]}

    return {
        DEFAULT: generate.get_concrete_function(),
        GENERATE: generate_tokens.get_concrete_function(),
        TOKENS: whole_function(writing),
    }


def _begun(token_ids: tf.Tensor, end_id: int) -> tf.Tensor:
    """The end moved from the end of each row to its beginning: a text begins where another one ended."""
    pieces = tf.where(tf.equal(token_ids, end_id), 0, token_ids)
    return tf.pad(pieces, [[0, 0], [1, 0]], constant_values=end_id)[:, :-1]


def _last_ids(token_ids: tf.Tensor, most: int) -> tf.Tensor:
    """The last `most` ids of each row (N, T), padding at the end not counted: (N, min(most, T))."""
    lengths = tf.math.count_nonzero(token_ids, axis=1, dtype=tf.int32)  # (N,)
    first = tf.expand_dims(tf.maximum(lengths - most, 0), 1)  # (N, 1)
    columns = first + tf.range(tf.minimum(most, tf.shape(token_ids)[1]))  # (N, min(most, T))
    return tf.gather(token_ids, columns, batch_dims=1)


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
    leaves = {"position": state.position}
    for kind, layers in (("", state.caches), ("memory_", state.memory)):
        for index, known in enumerate(layers):
            leaves |= {f"{kind}key_{index}": known.key, f"{kind}value_{index}": known.value}
    return {**leaves, MEMORY_MASK: state.memory_mask} if state.memory else leaves
