"""The tokenizer in the graph has the ids of the one in Python, on real text and on nasty text, in every loader."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.data import assets
from keras_transformer.data.graph_tokenizer import GraphWordPiece
from keras_transformer.data.tokenizer import SPECIAL_PIECES, WordPiece

MAX_LENGTH = 64


@pytest.fixture(scope="module")
def minilm_graph(minilm) -> GraphWordPiece:
    return GraphWordPiece(minilm, MAX_LENGTH)


@pytest.fixture(scope="module")
def learned_graph(learned) -> GraphWordPiece:
    return GraphWordPiece(learned, MAX_LENGTH)


def assert_same_ids(graph: GraphWordPiece, tokenizer: WordPiece, texts: list[str]) -> None:
    got = graph(tf.constant(texts, tf.string)).numpy()
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, tokenizer.pad(tokenizer.encode(texts, graph.max_length)))


@pytest.mark.parametrize("batch_size", [1, 257])
def test_real_texts_have_the_same_ids_under_minilms_vocabulary(minilm_graph, minilm, real_texts, batch_size):
    texts = real_texts[:: 3 if batch_size > 1 else 101]
    for start in range(0, len(texts), batch_size):
        assert_same_ids(minilm_graph, minilm, texts[start : start + batch_size])


def test_real_texts_have_the_same_ids_under_a_small_vocabulary(learned_graph, learned, real_texts):
    for start in range(0, len(real_texts), 1024):
        assert_same_ids(learned_graph, learned, real_texts[start : start + 512])


def test_nasty_texts_have_the_same_ids(minilm_graph, minilm, learned_graph, learned, nasty_texts):
    for text in nasty_texts:
        assert_same_ids(minilm_graph, minilm, [text])
        assert_same_ids(learned_graph, learned, [text])
    assert_same_ids(minilm_graph, minilm, nasty_texts)
    assert_same_ids(learned_graph, learned, nasty_texts)


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_any_texts_have_the_same_ids(learned_graph, learned, texts):
    assert_same_ids(learned_graph, learned, texts)


TINY = WordPiece([*SPECIAL_PIECES, "a", "##b", "##ab", "ab", "b", "##a", "abba", ",", "##c", "e", "##e"])


@pytest.fixture(scope="module", params=[3, 4, 7, 31])
def tiny_graph(request) -> GraphWordPiece:
    return GraphWordPiece(TINY, request.param)


@settings(deadline=None)
@given(st.lists(st.text("abc, é\u0301", max_size=12), min_size=1, max_size=4))
def test_words_of_a_tiny_vocabulary_have_the_same_ids_at_every_length(tiny_graph, texts):
    assert_same_ids(tiny_graph, TINY, texts)


@pytest.mark.parametrize(("lowercase", "strip_accents"), [(False, None), (True, False), (False, True)])
def test_other_rules_of_case_and_accents_are_followed(learned, nasty_texts, real_texts, lowercase, strip_accents):
    tokenizer = WordPiece(learned.vocab, lowercase=lowercase, strip_accents=strip_accents)
    assert_same_ids(GraphWordPiece(tokenizer, 19), tokenizer, [*nasty_texts, *real_texts[:199]])


def test_a_text_of_a_megabyte_has_the_same_ids(minilm_graph, minilm):
    assert_same_ids(minilm_graph, minilm, ["no end " * 150_000, "x" * 1_000_000, "end"])


def test_no_text_at_all_gives_no_row(minilm_graph):
    assert minilm_graph(tf.constant([], tf.string)).shape == (0, 2)


def test_bytes_that_are_not_utf_8_are_dropped(minilm_graph, minilm):
    texts = tf.constant([b"caf\xe9 ol\xff\xfee", b"\xed\xa0\x80a", b"cut \xe4\xb8"])
    expected = minilm.pad(minilm.encode(["caf ole", "a", "cut"], MAX_LENGTH))
    np.testing.assert_array_equal(minilm_graph(texts), expected)


def test_marks_that_nfd_would_sort_make_an_unknown_word_in_both(minilm_graph, minilm):
    # The one known difference needs a vocabulary with such marks in it; MiniLM's has none.
    assert_same_ids(minilm_graph, minilm, ["x\u302e\U0001d165y", "a\u08d5\u08d4"])


def test_it_is_traced_once_whatever_comes(minilm, real_texts):
    graph = GraphWordPiece(minilm, MAX_LENGTH)
    for count in (1, 2, 5):
        graph(tf.constant(real_texts[:count]))
    assert graph.__call__.experimental_get_tracing_count() == 1


def test_a_length_without_room_for_a_piece_is_refused(minilm):
    with pytest.raises(ValueError, match="max_length=2 has no room"):
        GraphWordPiece(minilm, 2)


def tensorflow_text_ids(tokenizer, texts: list[str]) -> list[list[int]]:
    ids = tokenizer.tokenize(tf.constant(texts))
    return (ids.merge_dims(-2, -1) if ids.ragged_rank > 1 else ids).to_list()


def test_tensorflow_text_gives_the_same_ids_for_real_texts(minilm, real_texts):
    """Both its tokenizers fold case by NFKC and so split 1/2 out of one character; that is all that differs."""
    import tensorflow_text

    texts = [text for text in real_texts if "½" not in text]
    assert len(real_texts) - len(texts) == 2
    ours = [ids[1:-1] for ids in minilm.encode(texts, 512)]
    vocab_file = str(assets.minilm_folder() / "vocab.txt")
    plain = tensorflow_text.BertTokenizer(vocab_file, token_out_type=tf.int32, lower_case=True)
    fast = tensorflow_text.FastBertTokenizer(minilm.vocab, token_out_type=tf.int32, lower_case_nfd_strip_accents=True)
    assert tensorflow_text_ids(plain, texts) == ours
    assert tensorflow_text_ids(fast, texts) == ours


LOADER = """
import json, sys
# None of these can be imported:
sys.modules.update(dict.fromkeys(["keras", "keras_transformer", "tensorflow_text", "tokenizers"]))
import tensorflow as tf
folder, texts = sys.argv[1], json.load(sys.stdin)
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    signature = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder).signature_def["serving_default"]
    feed = {signature.inputs["texts"].name: [text.encode() for text in texts]}
    ids = session.run(signature.outputs["token_ids"].name, feed)
print(json.dumps(ids.tolist()))
"""


def test_a_saved_model_gives_the_same_ids_through_the_loader_of_tensorflow_serving(
    forked, tmp_path, learned_graph, learned, nasty_texts, real_texts
):
    module = tf.Module()
    module.tokenizer = learned_graph
    serve = tf.function(
        lambda texts: {"token_ids": learned_graph(texts)},
        input_signature=[tf.TensorSpec((None,), tf.string, name="texts")],
        autograph=False,
    )
    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    texts = [*nasty_texts, *real_texts[:101]]
    done = forked.run(LOADER, tmp_path, given=json.dumps(texts))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == learned.pad(learned.encode(texts, MAX_LENGTH)).tolist()
