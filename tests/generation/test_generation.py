"""What writes texts, against loops over whole texts without a cache; and which texts a seed belongs to."""

import numpy as np
import pytest

from keras_transformer import bundle, evaluation, generation
from keras_transformer.checks import UserError
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.text import Pairs
from keras_transformer.files import ModelFileError
from keras_transformer.generation import Decoding, LogLikelihood

TEXTS = ["a fine film, a dull film", "not funny at all", "ein schöner Film!", "a", "a fine day 東京 in the end"]
LENGTH = 23


@pytest.fixture(scope="module")
def tokenizer():
    return ReversibleTokenizer.learn(TEXTS, vocab_size=300, min_frequency=1)


@pytest.fixture(scope="module")
def translator(tokenizer):
    import keras

    from keras_transformer.generation.keras_writers import Translator
    from keras_transformer.models import Seq2Seq

    keras.utils.set_random_seed(11)
    model = Seq2Seq(tokenizer.vocab_size, 2, 12, 2, 17, num_decoder_layers=1, tie_embeddings=False)
    return Translator(sharpened(model), tokenizer, LENGTH)


@pytest.fixture(scope="module")
def continuer(tokenizer):
    import keras

    from keras_transformer.generation.keras_writers import Continuer
    from keras_transformer.models import CausalLM

    keras.utils.set_random_seed(12)
    model = CausalLM(tokenizer.vocab_size, 2, 12, 2, 17, max_length=LENGTH, tie_embeddings=False)
    return Continuer(sharpened(model), tokenizer, LENGTH)


def sharpened(model):
    """Random weights large enough that each token depends on those before; biases and norms stay as they are.

    A random bias of the logits would be stronger than all else, and each text the same token over and over.
    """
    random = np.random.default_rng(6)
    drawn = [
        random.normal(scale=1.5, size=weight.shape) if weight.ndim > 1 else weight for weight in model.get_weights()
    ]
    model.set_weights(drawn)
    return model


def best(logits, end_id, most, grow):
    """Tokens one by one, each from a whole forward pass."""
    found = []
    while len(found) < most and end_id not in found:
        found.append(int(np.argmax(logits(grow(found)))))
    return found


@pytest.fixture(scope="module")
def whole_pair(translator):
    """Ids of a source and of what stands before each target -> logits (T, V): a whole forward pass, in a graph."""
    run = in_graph(translator.model, ("source_ids", "target_ids"))
    return lambda source, target: run(np.array([source], "int32"), np.array([target], "int32")).numpy()[0]


@pytest.fixture(scope="module")
def whole_text(continuer):
    """Ids -> logits (T, V), as `whole_pair`."""
    run = in_graph(continuer.model, ("token_ids",))
    return lambda ids: run(np.array([ids], "int32")).numpy()[0]


def in_graph(model, names):
    import tensorflow as tf

    def run(*ids):
        return model(dict(zip(names, ids, strict=True)) if len(names) > 1 else ids[0], training=False)

    return tf.function(run, input_signature=[tf.TensorSpec((None, None), tf.int32)] * len(names))


def translated(writer, whole_pair, text):
    (ids,) = writer.tokenizer.encode([text], LENGTH)

    def logits(target):
        return whole_pair(ids, target)[-1]

    start, end = writer.tokenizer.start_id, writer.tokenizer.end_id
    return best(logits, end, LENGTH, lambda found: [start, *found])


def test_greedy_translations_are_those_of_whole_forward_passes(translator, whole_pair):
    found = translator.translate(translator.tokenizer.encode(TEXTS, LENGTH))
    assert found == [translated(translator, whole_pair, text) for text in TEXTS]
    assert len(set(map(tuple, found))) == len(TEXTS)  # each depends on its source
    assert min(map(len, found)) < LENGTH == max(map(len, found))  # one comes to an end, one is cut
    assert translator.write(TEXTS) == [translator.tokenizer.decode(ids) for ids in found]


@pytest.mark.parametrize("most", [1, 5, 22])
def test_greedy_continuations_are_those_of_whole_forward_passes(continuer, whole_text, most):
    """A prompt without room is read from its end, and comes back whole all the same."""
    ends, outputs = continuer.tokenizer, continuer.write(TEXTS, Decoding(max_tokens=most))
    for text, output in zip(TEXTS, outputs, strict=True):
        whole = ends.encode([text], 99)[0][:-1]
        prompt = [ends.end_id, *whole][-(LENGTH - most) :]

        def logits(ids):
            return whole_text(ids)[-1]

        found = best(logits, ends.end_id, most, lambda new, prompt=prompt: [*prompt, *new])
        assert output == ends.decode([*whole, *found])
        assert output.startswith(text)


def test_without_a_number_half_of_the_length_is_written(continuer):
    assert continuer.write(TEXTS[:2]) == continuer.write(TEXTS[:2], Decoding(max_tokens=LENGTH // 2))


def test_a_wide_beam_finds_what_is_at_least_as_likely(translator, whole_pair):
    """Sums of log-probabilities by the penalised length, of whole forward passes."""
    ids = translator.tokenizer.encode(TEXTS, LENGTH)

    def score(source, target):
        logits = whole_pair(source, [translator.tokenizer.start_id, *target[:-1]]).astype("float64")
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return sum(log_p[place, token] for place, token in enumerate(target)) / ((5 + len(target)) / 6) ** 0.6

    greedy, wide = (translator.translate(ids, Decoding(beam=width)) for width in (1, 4))
    assert greedy == translator.translate(ids)
    gains = [score(source, two) - score(source, one) for source, one, two in zip(ids, greedy, wide, strict=True)]
    assert min(gains) > -1e-4
    assert max(gains) > 0.01


@pytest.mark.parametrize("writer", ["translator", "continuer"])
def test_what_is_drawn_depends_on_the_seed_and_the_place_alone(writer, request):
    model = request.getfixturevalue(writer)
    drawn = Decoding(temperature=1.3, top_k=50, max_tokens=7, seed=5)
    together = model.write(TEXTS, drawn)
    apart = [model.write([text], drawn, first=place)[0] for place, text in enumerate(TEXTS)]
    assert together == apart
    assert together != model.write(TEXTS, Decoding(temperature=1.3, top_k=50, max_tokens=7, seed=6))
    assert len({text.removeprefix(TEXTS[3]) for text in model.write([TEXTS[3]] * 5, drawn)}) > 1


BEAM, COLD = {"beam": 3}, {"temperature": 1e-6, "seed": 5}


@pytest.mark.parametrize(
    ("writer", "decoding"),
    [
        ("translator", {}),
        ("translator", BEAM),
        pytest.param("translator", COLD, marks=pytest.mark.slow),
        ("continuer", {}),
        pytest.param("continuer", BEAM, marks=pytest.mark.slow),
        ("continuer", COLD),
    ],
)
def test_compiled_writing_gives_the_same_words(writer, decoding, request):
    model = request.getfixturevalue(writer)
    compiled = type(model)(model.model, model.tokenizer, LENGTH, jit_compile=True)
    asked = Decoding(max_tokens=7, **decoding)
    assert compiled.write(TEXTS, asked) == model.write(TEXTS, asked)
    assert compiled.write([], asked) == []


def test_compiled_drawing_depends_on_the_seed_and_the_place_alone(continuer):
    """XLA draws other numbers for a seed than TensorFlow's kernels do, and the same ones each time."""
    from keras_transformer.generation.keras_writers import Continuer

    model = Continuer(continuer.model, continuer.tokenizer, LENGTH, jit_compile=True)
    drawn = Decoding(temperature=1.3, top_k=50, max_tokens=7, seed=5)
    together = model.write(TEXTS, drawn)
    assert together == [model.write([text], drawn, first=place)[0] for place, text in enumerate(TEXTS)]
    assert together != continuer.write(TEXTS, drawn)
    assert together != model.write(TEXTS, Decoding(temperature=1.3, top_k=50, max_tokens=7, seed=6))


def test_compiled_writing_meets_few_shapes(translator):
    """Each shape is compiled: 1 to 64 texts of up to 23 word pieces come in at most 7 times 2 of them."""
    from keras_transformer.generation.keras_writers import Translator

    compiled, shapes = Translator(translator.model, translator.tokenizer, LENGTH, jit_compile=True), set()

    def written(batch, seed):
        shapes.add(batch.shape)
        return np.ones((len(batch), 1), "int32") * batch[:, :1]

    class Graph:
        def __call__(self, batch, seed):
            return type("Tensor", (), {"numpy": lambda self: written(batch, seed)})()

    compiled._graph = lambda decoding: Graph()
    for rows in range(1, 65):
        source_ids = [[5 + row] * (1 + (7 * row + rows) % LENGTH) for row in range(rows)]
        assert compiled.translate(source_ids) == [[5 + row] for row in range(rows)]
    assert {length for _, length in shapes} == {16, 32}
    assert {rows for rows, _ in shapes} == {1, 2, 4, 8, 16, 32, 64}


def test_one_candidate_or_no_heat_is_greedy(continuer):
    greedy = continuer.write(TEXTS, Decoding(max_tokens=7))
    for drawn in (Decoding(top_k=1, max_tokens=7), Decoding(temperature=1e-6, max_tokens=7)):
        assert continuer.write(TEXTS, drawn) == greedy


def test_more_tokens_than_the_model_has_room_for_are_refused(continuer):
    with pytest.raises(UserError, match=r"--max-tokens 23: the model has room for 23 word pieces.* Use 22 or less"):
        continuer.write(["a"], Decoding(max_tokens=LENGTH))


def test_a_translation_longer_than_any_cache_is_refused(translator):
    with pytest.raises(UserError, match=r"--max-tokens 1025: a translator writes up to 1024 .* Use 1024 or less"):
        translator.write(["a"], Decoding(max_tokens=1025))


@pytest.mark.parametrize(("decoding", "texts"), [({}, 64), ({"beam": 4}, 64), ({"beam": 5}, 51), ({"beam": 999}, 1)])
def test_a_wide_search_takes_fewer_texts_at_once(decoding, texts):
    from keras_transformer.generation.keras_writers import texts_at_once

    assert texts_at_once(Decoding(**decoding)) == texts
    assert texts_at_once(Decoding(temperature=1.0)) == 1
    assert texts_at_once(Decoding(**decoding), fill=True) == {64: 64, 51: 32, 1: 1}[texts]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("decoding", [{}, {"beam": 3}, {"beam": 9}], ids=["greedy", "narrow", "wide"])
def test_a_model_that_has_not_learned_so_many_positions_says_so(tokenizer, decoding, jit_compile):
    from keras_transformer.generation.keras_writers import Continuer
    from keras_transformer.models import CausalLM

    writer = Continuer(CausalLM(tokenizer.vocab_size, 1, 4, 2, 3, max_length=7), tokenizer, 16, jit_compile=jit_compile)
    with pytest.raises(ValueError, match=r"room=\d+ is more than the max_length=7 positions that"):
        writer.write(["a"], Decoding(max_tokens=12, **decoding))


def test_a_wide_search_finds_what_a_narrow_one_would_with_its_width(translator, monkeypatch):
    """The two ways to keep the beginnings agree."""
    from keras_transformer.generation import keras_writers

    ids = translator.tokenizer.encode(TEXTS, LENGTH)
    wide = translator.translate(ids, Decoding(beam=keras_writers.MOST_BRANCHES + 1))
    monkeypatch.setattr(keras_writers, "MOST_BRANCHES", keras_writers.MOST_BRANCHES + 1)
    again = keras_writers.Translator(translator.model, translator.tokenizer, LENGTH)
    assert again.translate(ids, Decoding(beam=keras_writers.MOST_BRANCHES)) == wide


def test_the_likelihood_of_texts_is_that_of_each_token_by_itself(continuer):
    """A text longer than the model reads is cut into windows, the last token of one being the first of the next."""
    ends, texts = continuer.tokenizer, [*TEXTS, "a fine film " * 9]
    negative, tokens = 0.0, 0
    for text in texts:
        stream = [ends.end_id, *ends.encode([text], 999)[0]]
        for place in range(1, len(stream)):
            window = stream[(place - 1) // LENGTH * LENGTH : place]
            logits = np.asarray(continuer.model(np.array([window], "int32"), training=False), "float64")[0, -1]
            negative += np.log(np.exp(logits - logits[stream[place]]).sum())
            tokens += 1
    counted = []
    found = continuer.log_likelihood(texts, counted.append)
    assert found == LogLikelihood(pytest.approx(negative, rel=1e-5), tokens)
    assert sum(counted) == len(texts)


def test_a_translator_foresees_no_text(translator):
    with pytest.raises(UserError, match="a model for 'translate' foresees no text by itself"):
        translator.log_likelihood(TEXTS)


class Echo:
    """A translator that repeats, and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def write(self, texts, decoding=generation.GREEDY, first=0):
        self.calls.append((texts, first))
        return [text.replace("b", "x") for text in texts]

    def log_likelihood(self, texts, progress=None):
        return LogLikelihood(np.nan, 7)


def test_each_translation_is_scored_against_its_own_target():
    sources = [letter * 4 + " c d e" * place for place, letter in enumerate("ddacbdba")][::-1]
    writer, counted = Echo(), []
    right = evaluation.evaluate_translations(writer, Pairs(sources, [text.replace("b", "x") for text in sources]))
    assert (right.bleu, right.chrf, right.n) == (pytest.approx(100), pytest.approx(100), 8)
    evaluation.evaluate_translations(writer, Pairs(sources, sources), batch_size=3, progress=counted.append)
    assert counted == [3, 3, 2]
    assert [first for _, first in writer.calls] == [0, 0, 3, 6]


class Foresees:
    """A language model that loses so many nats on all texts together, in so many tokens."""

    def __init__(self, negative, tokens):
        self.found = LogLikelihood(negative, tokens)

    def log_likelihood(self, texts, progress=None):
        return self.found


def test_perplexities_are_those_of_a_hand_count():
    """Two texts of 2 + 3 words and 6 + 14 bytes as the model reads them: white space and controls count for nothing."""
    scores = evaluation.evaluate_language(Foresees(12.0, 8), ["  ein\t\n  Ei\x00 ", "so schön wär"])
    assert scores.perplexity == pytest.approx(np.exp(12 / 8))
    assert scores.perplexity_word == pytest.approx(np.exp(12 / 5))
    assert scores.perplexity_byte == pytest.approx(np.exp(12 / (6 + 14)))
    assert scores.bits_per_byte == pytest.approx(12 / 20 / np.log(2))
    assert scores.n == 2


def test_a_text_without_spaces_has_no_perplexity_per_word_that_a_number_could_hold():
    scores = evaluation.evaluate_language(Foresees(900.0, 300), ["東" * 300])
    assert scores.perplexity_word is None
    assert scores.perplexity == pytest.approx(np.exp(3))
    assert scores.perplexity_byte == pytest.approx(np.exp(1))


def test_a_language_model_that_answers_with_nan_is_named():
    with pytest.raises(ModelFileError, match="the model answers with NaN"):
        evaluation.evaluate_language(Echo(), ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "--beam=0 must be a whole number of at least 1"),
        ({"top_k": 0}, "--top-k=0 must be a whole number"),
        ({"max_tokens": 0}, "--max-tokens=0 must be a whole number"),
        ({"temperature": 0.0}, r"--temperature=0\.0 must be finite and above 0\. Use for example --temperature=0\.8"),
        ({"top_p": 1.5}, r"--top-p=1\.5 must be above 0 and at most 1\. Use for example --top-p=0\.9"),
        ({"beam": 4, "temperature": 0.7}, r"--beam 4 with --temperature 0\.7: a beam search looks for the likeliest"),
        ({"beam": 1, "top_p": 0.5}, r"--beam 1 with --top-p 0\.5"),
    ],
)
def test_ways_of_choosing_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**options)


def test_a_run_folder_is_loaded_by_its_task(translator, continuer, tmp_path, small_bundle, small_tflite):
    for writer, task in ((translator, "translate"), (continuer, "language-model")):
        bundle.save(
            tmp_path / task,
            model=writer.model,
            tokenizer=writer.tokenizer,
            task=task,
            max_length=LENGTH,
            metrics={},
            command="keras-transformer train",
        )
        loaded = generation.load(tmp_path / task)
        assert (type(loaded), loaded.max_length) == (type(writer), LENGTH)
        assert loaded.write(TEXTS) == writer.write(TEXTS)
        assert generation.load(tmp_path / task, jit_compile=True).jit_compile
    with pytest.raises(
        ModelFileError, match="was trained for 'classify', and it takes 'translate' or 'language-model'"
    ):
        generation.load(small_bundle)
    with pytest.raises(ModelFileError, match="was trained for 'classify', and it takes 'translate' or"):
        generation.load(small_tflite)


def test_a_model_whose_vocabulary_is_not_that_of_its_tokenizer_is_refused(translator, tmp_path):
    other = ReversibleTokenizer(translator.tokenizer.vocab[:-1])
    arguments = {"model": translator.model, "task": "translate", "max_length": 5, "metrics": {}, "command": "train it"}
    bundle.save(tmp_path / "a", tokenizer=other, **arguments)
    with pytest.raises(ModelFileError, match=r"tells \d+ classes apart, and tokenizer.json names \d+"):
        bundle.load(tmp_path / "a")
