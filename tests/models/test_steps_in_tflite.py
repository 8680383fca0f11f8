"""A step takes its cache in and gives it out, so a phone's file needs no operator but LiteRT's own."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from weights import randomise

from keras_transformer.export.lite_operators import operator_names
from keras_transformer.export.signatures import BareWeights
from keras_transformer.models import CausalLM, Seq2Seq

ROOM, START = 11, 2
SIZE = {"vocab_size": 29, "num_layers": 2, "model_dim": 24, "num_heads": 6, "inner_dim": 11, "dropout": 0.0}
IDS = np.array([[5, 17, 28, 1, 9, 2, 8]], dtype="int32")


def converted(model, state, path):
    """A file with the signature `step`: tokens and the leaves of the state in, logits and the new leaves out."""
    leaves = tf.nest.flatten(state)

    def step(token_ids, **given):
        inside = tf.nest.pack_sequence_as(state, [given[f"state_{index}"] for index in range(len(leaves))])
        logits, after = model.step(token_ids, inside)
        return {"logits": logits} | {f"next_{index}": leaf for index, leaf in enumerate(tf.nest.flatten(after))}

    specs = {f"state_{index}": tf.TensorSpec(leaf.shape, leaf.dtype) for index, leaf in enumerate(leaves)}
    concrete = tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec((1,), tf.int32), **specs)
    tf.saved_model.save(BareWeights(model), str(path.parent / "saved"), signatures={"step": concrete})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path.parent / "saved"), signature_keys=["step"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path.write_bytes(converter.convert())
    return Interpreter(model_path=str(path)).get_signature_runner("step")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="learned"),
        pytest.param({"positions": "sinusoidal", "norm_first": False}, id="sinusoidal"),
        pytest.param({"positions": "rotary", "num_key_value_heads": 2}, id="rotary-grouped"),
        pytest.param({"positions": "alibi"}, id="alibi"),
        pytest.param(None, id="translator"),
    ],
)
def test_a_step_becomes_built_in_operators_and_gives_the_same_logits(options, tmp_path):
    if options is None:
        model = randomise(Seq2Seq(**SIZE), scale=0.3)
        state = model.prompt(IDS, room=ROOM, start_id=START).state
    else:
        model = randomise(CausalLM(**SIZE, max_length=ROOM, **options), scale=0.3)
        state = model.prompt(IDS[:, :3], room=ROOM).state
    step = converted(model, state, tmp_path / "step.tflite")
    assert not [name for name in operator_names(tmp_path / "step.tflite") if name.startswith("Flex")]
    ours = [np.asarray(leaf) for leaf in tf.nest.flatten(state)]
    for token in IDS[0, 3:]:
        want, state = model.step(np.array([token], "int32"), state)
        found = step(token_ids=np.array([token], "int32"), **{f"state_{i}": leaf for i, leaf in enumerate(ours)})
        np.testing.assert_allclose(found["logits"], want, atol=1e-4)
        ours = [found[f"next_{index}"] for index in range(len(ours))]
    for mine, theirs in zip(ours, tf.nest.flatten(state), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
