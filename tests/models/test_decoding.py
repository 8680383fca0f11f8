"""Greedy decoding, and what all ways of decoding share: ends, lengths, batches, graphs, exported files."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from remembering import Remembering, greedy_oracle, kept, total_log_prob

from keras_transformer.export.lite_operators import operator_names
from keras_transformer.models.decoding import beam, diverse_beam, greedy, sample, speculative

VOCAB_SIZE, END, MAX_TOKENS, ROOM = 11, 3, 7, 20
PROMPTS = [[5], [2, 9, 4, 1], [7, 7], [10, 6, 8], [4, 10]]
MODEL = Remembering(VOCAB_SIZE, seed=1)


def ways(model=MODEL):
    """Each way of decoding as a function of the prompted model -> (token_ids (B, T) or (B, N, T), log_prob)."""
    limits = {"end_id": END, "max_tokens": MAX_TOKENS}

    def by_draft(prompted):
        return speculative(model.step, prompted, model.extend, prompted, num_drafted=2, **limits).decoded

    return {
        "greedy": lambda prompted: greedy(model.step, prompted, **limits),
        "sample": lambda prompted: sample(model.step, prompted, seed=5, top_k=8, top_p=0.95, min_p=0.01, **limits),
        "penalised": lambda prompted: sample(model.step, prompted, seed=5, repetition_penalty=1.5, **limits),
        "beam": lambda prompted: beam(model.step, prompted, width=4, num_best=3, **limits)[:2],
        "diverse": lambda prompted: diverse_beam(model.step, prompted, width=4, num_groups=2, **limits)[:2],
        "speculative": by_draft,
    }


WAYS = list(ways())


def numpy_of(decoded):
    return [part.numpy() for part in decoded]


def test_greedy_takes_the_likeliest_token_of_each_ragged_row_until_its_own_end():
    decoded = greedy(MODEL.step, MODEL.prompt(PROMPTS, ROOM), end_id=END, max_tokens=MAX_TOKENS)
    expected = [greedy_oracle(MODEL, prompt, END, MAX_TOKENS) for prompt in PROMPTS]
    assert [kept(row, END) for row in decoded.token_ids.numpy()] == expected
    lengths = {len(row) for row in expected}
    assert min(lengths) < max(lengths) == MAX_TOKENS, "the prompts have to show both kinds of rows"
    scores = [total_log_prob(MODEL, *pair) for pair in zip(PROMPTS, expected, strict=True)]
    np.testing.assert_allclose(decoded.log_prob, scores, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_is_decoded_as_if_it_were_alone(way):
    together = numpy_of(ways()[way](MODEL.prompt(PROMPTS, ROOM)))
    rows = [0] if way in ("sample", "penalised") else range(len(PROMPTS))  # noise belongs to a row's place
    for row in rows:
        alone = numpy_of(ways()[way](MODEL.prompt([PROMPTS[row]], ROOM)))
        np.testing.assert_array_equal(together[0][row], alone[0][0])
        np.testing.assert_allclose(together[1][row], alone[1][0], rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_rows_have_padding_after_their_end_and_their_log_prob_is_that_of_what_is_left(way):
    token_ids, log_prob = numpy_of(ways()[way](MODEL.prompt(PROMPTS, ROOM)))
    token_ids, log_prob = token_ids.reshape(len(PROMPTS), -1, MAX_TOKENS), log_prob.reshape(len(PROMPTS), -1)
    for row, place in np.ndindex(log_prob.shape):
        tokens = kept(token_ids[row, place], END)
        assert log_prob[row, place] == pytest.approx(total_log_prob(MODEL, PROMPTS[row], tokens), rel=1e-5)


LIMITS = [1, 7, 3, 2, 5]


@pytest.mark.parametrize("way", ["greedy", "beam"])
def test_a_row_with_a_limit_of_its_own_is_decoded_as_if_it_were_alone_with_that_many_tokens(way):
    def decoded(prompts, max_tokens, limits=None):
        arguments = {"end_id": END, "max_tokens": max_tokens, "limits": limits}
        if way == "greedy":
            return numpy_of(greedy(MODEL.step, MODEL.prompt(prompts, ROOM), **arguments))
        return numpy_of(beam(MODEL.step, MODEL.prompt(prompts, ROOM), width=3, num_best=2, **arguments))

    together = decoded(PROMPTS, MAX_TOKENS, tf.constant(LIMITS))
    for row, limit in enumerate(LIMITS):
        alone = decoded([PROMPTS[row]], limit)
        np.testing.assert_array_equal(together[0][row][..., :limit], alone[0][0])
        assert not together[0][row][..., limit:].any()
        for mine, theirs in zip(together[1:], alone[1:], strict=True):
            np.testing.assert_allclose(mine[row], theirs[0], rtol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_no_row_gets_more_tokens_than_asked_and_the_model_no_call_too_many(max_tokens):
    prompted = MODEL.prompt(PROMPTS, ROOM)
    decoded = greedy(MODEL.step, prompted, end_id=VOCAB_SIZE + 1, max_tokens=max_tokens)
    assert decoded.token_ids.shape == (len(PROMPTS), max_tokens)
    assert np.all(decoded.token_ids.numpy() > 0)
    assert MODEL.steps == max_tokens - 1


def test_the_loop_stops_when_the_last_row_has_ended():
    lengths = [len(greedy_oracle(MODEL, prompt, END, 15)) for prompt in PROMPTS]
    ending = [prompt for prompt, length in zip(PROMPTS, lengths, strict=True) if length < 15]
    prompted = MODEL.prompt(ending, ROOM)
    greedy(MODEL.step, prompted, end_id=END, max_tokens=15)
    assert MODEL.steps == max(length for length in lengths if length < 15) - 1


@pytest.mark.parametrize("way", WAYS)
def test_a_graph_gives_what_eager_code_gives_and_is_traced_once_for_a_shape(way):
    model = Remembering(VOCAB_SIZE, seed=1)
    prompted = [model.prompt(prompts, ROOM) for prompts in (PROMPTS, PROMPTS[::-1])]
    eager = [numpy_of(ways()[way](each)) for each in prompted]
    generate = tf.function(lambda logits, state: ways(model)[way](type(prompted[0])(logits, state)), autograph=False)
    model.steps = 0
    graph = [numpy_of(generate(*prompted[0]))]
    after_tracing = model.steps
    graph.append(numpy_of(generate(*prompted[1])))
    assert model.steps == after_tracing
    for ours, theirs in zip(graph, eager, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)


class Generator(tf.Module):
    """Every way of decoding as one signature; token ids (B, 2) in, and the seed."""

    def prompt(self, token_ids):
        batch = tf.shape(token_ids)[0]
        room = tf.zeros((batch, ROOM, MODEL.embedding.shape[1]))
        state = MODEL.prompt([[1]], ROOM).state._replace(position=tf.zeros((batch,), tf.int32), cache=(room,))
        logits, state = MODEL.extend(token_ids, state)
        return MODEL.prompt([[1]], ROOM)._replace(logits=logits[:, -1], state=state)

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int32), tf.TensorSpec((), tf.int32)], autograph=False)
    def generate(self, token_ids, seed):
        prompted, limits = self.prompt(token_ids), {"end_id": END, "max_tokens": MAX_TOKENS}
        drawn = sample(MODEL.step, prompted, seed=seed, top_p=0.9, repetition_penalty=1.3, **limits)
        return {**self.certain(prompted), "sample": drawn.token_ids}

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int32)], autograph=False)
    def certain_tokens(self, token_ids):
        return self.certain(self.prompt(token_ids))

    def certain(self, prompted):
        return {name: ways()[name](prompted)[0] for name in CERTAIN}


CERTAIN = {"greedy", "beam", "diverse", "speculative"}
BATCH = np.array([[7, 7], [4, 10], [2, 9]], "int32")


def test_an_exported_graph_decodes_as_eager_code_does_and_needs_no_xla(tmp_path):
    module = Generator()
    tf.saved_model.save(module, str(tmp_path), signatures={"generate": module.generate})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = loaded.signature_def["generate"]
        given = {signature.inputs["token_ids"].name: BATCH, signature.inputs["seed"].name: 5}
        answers = session.run({name: info.name for name, info in signature.outputs.items()}, given)
        operators = {node.op for function in loaded.graph_def.library.function for node in function.node_def}
    assert not [name for name in operators if "Xla" in name]
    prompted = MODEL.prompt(BATCH.tolist(), ROOM)
    for name in CERTAIN:
        np.testing.assert_array_equal(answers[name], ways()[name](prompted)[0])
    limits = {"end_id": END, "max_tokens": MAX_TOKENS}
    drawn = sample(MODEL.step, prompted, seed=5, top_p=0.9, repetition_penalty=1.3, **limits)
    np.testing.assert_array_equal(answers["sample"], drawn.token_ids)


def test_a_phone_file_decodes_as_eager_code_does_with_built_in_operators(tmp_path):
    module, path = Generator(), tmp_path / "generate.tflite"
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.certain_tokens.get_concrete_function()], module)
    path.write_bytes(converter.convert())
    assert not [name for name in operator_names(path) if name.startswith("Flex")]
    interpreter = Interpreter(model_path=str(path))
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], BATCH.shape)
    answers = interpreter.get_signature_runner()(token_ids=BATCH)
    prompted = MODEL.prompt(BATCH.tolist(), ROOM)
    assert set(answers) == CERTAIN
    for name in answers:
        np.testing.assert_array_equal(answers[name], ways()[name](prompted)[0])


@pytest.mark.parametrize("way", WAYS)
def test_scores_of_any_size_give_finite_results(way):
    table = np.random.default_rng(3).choice([-1e4, 1e4], size=(VOCAB_SIZE, VOCAB_SIZE)).astype("float32")

    class Extreme(Remembering):
        def step(self, token_ids, state):
            return tf.gather(table, token_ids), state._replace(position=state.position + 1)

    model = Extreme(VOCAB_SIZE, seed=1)
    token_ids, log_prob = numpy_of(ways(model)[way](model.prompt(PROMPTS, ROOM)))
    assert np.isfinite(log_prob).all()
    assert (token_ids < VOCAB_SIZE).all()


def test_a_state_that_grows_is_refused_with_both_shapes():
    def growing(token_ids, state):
        return tf.zeros((1, VOCAB_SIZE)), tf.concat([state, state], axis=1)

    prompted = MODEL.prompt([[5]], ROOM)._replace(state=tf.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"of shape \(1, 8\) for one of shape \(1, 4\).* Give the state room"):
        greedy(growing, prompted, end_id=99, max_tokens=3)


@pytest.mark.parametrize("wrong", [{"end_id": 0}, {"max_tokens": 0}, {"max_tokens": 2.5}])
@pytest.mark.parametrize("decode", [greedy, sample, beam])
def test_limits_that_make_no_sense_are_refused(decode, wrong):
    more = {"sample": {"seed": 1}, "beam": {"width": 2}}.get(decode.__name__, {})
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"{name}={value} must be a whole number of at least 1"):
        decode(MODEL.step, MODEL.prompt([[5]], ROOM), **{"end_id": END, "max_tokens": 3, **more, **wrong})
