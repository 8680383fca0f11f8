"""Reversible pieces: every text comes back, learning repeats itself, and the graph agrees on lines of each script."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from keras_transformer.checks import UserError
from keras_transformer.data.catalog import message_pairs, messages_in
from keras_transformer.data.graph_reversible import GraphDetokenizer, GraphReversibleTokenizer
from keras_transformer.data.graph_tokenizer import GraphWordPiece
from keras_transformer.data.in_graph import detokenizer_in_graph, tokenizer_in_graph
from keras_transformer.data.reversible_tokenizer import BYTE_PIECES, SPECIAL_PIECES, ReversibleTokenizer
from keras_transformer.data.saved_tokenizers import load_tokenizer
from keras_transformer.data.text_pieces import MARK, MAX_RUN_CHARACTERS, normalized
from keras_transformer.data.tokenizer import SPECIAL_PIECES as WORD_PIECES
from keras_transformer.files import ModelFileError

LANGUAGES = ["ar", "he", "hi", "ja", "ko", "ru", "th", "zh_Hans"]
FIRST = [*SPECIAL_PIECES, *BYTE_PIECES, MARK]
MAX_LENGTH = 32


@pytest.fixture(scope="module")
def pairs() -> list[str]:
    both = message_pairs()
    return [*both.sources[::7], *both.targets[::7]]


@pytest.fixture(scope="module")
def joint(pairs) -> ReversibleTokenizer:
    """English and German; no sign of another script is in its alphabet."""
    return ReversibleTokenizer.learn(pairs, 1500)


@pytest.fixture(scope="module")
def joint_graph(joint):
    return GraphReversibleTokenizer(joint, MAX_LENGTH), GraphDetokenizer(joint)


@pytest.fixture(scope="module")
def scripts() -> dict[str, list[str]]:
    return {language: messages_in(language)[::2] for language in LANGUAGES}


@pytest.fixture(scope="module")
def mixed(scripts) -> ReversibleTokenizer:
    """All eight languages in one vocabulary."""
    return ReversibleTokenizer.learn([line for lines in scripts.values() for line in lines], 6007)


@pytest.fixture(scope="module")
def mixed_graph(mixed):
    return GraphReversibleTokenizer(mixed, MAX_LENGTH), GraphDetokenizer(mixed)


def tidy(text: str) -> str:
    """What should come back, in another way than the tokenizer goes: Python's own idea of white space."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = "".join(c for c in text if c.isspace() or (c not in "\ufeff\ufffd" and not "\x00" <= c < " "))
    text = "".join(c for c in text if c.isspace() or not "\x7f" <= c < "\xa0")
    return " ".join(text.split()).replace(MARK, "_")


def assert_same(graphs, tokenizer: ReversibleTokenizer, texts: list[str]) -> None:
    """The graph's ids are those of Python, and both make the same text of them."""
    encode, decode = graphs
    ids = encode(tf.constant(texts, tf.string)).numpy()
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, tokenizer.pad(tokenizer.encode(texts, encode.max_length)))
    assert [text.decode() for text in decode(ids).numpy()] == [tokenizer.decode(row) for row in ids]


@pytest.mark.parametrize("language", LANGUAGES)
def test_lines_of_each_script_come_back_and_the_graph_agrees(mixed, mixed_graph, scripts, language):
    lines = scripts[language]
    ids = mixed.encode(lines, 4000)
    assert [mixed.decode(row) for row in ids] == [tidy(line) for line in lines]
    characters = sum(map(len, map(tidy, lines)))
    assert sum(map(len, ids)) < 0.7 * characters  # pieces, not single characters, also where no space divides words
    assert_same(mixed_graph, mixed, lines)


def test_lines_of_unknown_scripts_come_back_as_bytes(joint, joint_graph, scripts):
    lines = [line for of_one in scripts.values() for line in of_one[:20]]
    assert [joint.decode(row) for row in joint.encode(lines, 4000)] == [tidy(line) for line in lines]
    assert_same(joint_graph, joint, lines)


def test_case_placeholders_and_punctuation_come_back(joint, pairs, joint_graph):
    assert [joint.decode(row) for row in joint.encode(pairs, 4000)] == pairs
    assert_same(joint_graph, joint, pairs[::3])
    pieces = [joint.vocab[index] for index in joint.encode(["Löschen: %(name)s, 12 {0}?"], 40)[0]]
    assert "".join(pieces[:-1]).replace(MARK, " ") == " Löschen: %(name)s, 12 {0}?"
    assert pieces[-1] == "[END]"


def test_nasty_texts_come_back_and_the_graph_agrees(joint, joint_graph, nasty_texts):
    assert [joint.decode(row) for row in joint.encode(nasty_texts, 4000)] == [tidy(text) for text in nasty_texts]
    assert_same(joint_graph, joint, nasty_texts)
    for text in nasty_texts:
        assert_same(joint_graph, joint, [text])


@settings(deadline=None)
@given(st.lists(st.text(st.characters() | st.sampled_from("aB %(){}<>[]12 \u2581\u3000ß中")), min_size=1, max_size=4))
def test_any_texts_come_back_and_the_graph_agrees(joint, joint_graph, texts):
    assert [joint.decode(row) for row in joint.encode(texts, 4000)] == [normalized(text) for text in texts]
    assert [normalized(text) for text in texts] == [tidy(text) for text in texts]
    assert_same(joint_graph, joint, texts)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=12))
def test_any_ids_give_the_same_text_in_the_graph(joint, joint_graph, ids):
    # Single bytes, cut characters and special pieces, as a model may put them out.
    (got,) = joint_graph[1](tf.constant([ids], tf.int32)).numpy()
    assert got.decode() == joint.decode(ids)


TINY = ReversibleTokenizer([*FIRST, "a", "b", "ab", MARK + "a", "aba", "(", "1", MARK + "(("])


@settings(deadline=None)
@given(st.text("ab(1 x", max_size=9))
def test_the_longest_piece_is_cut_off_each_run(text):
    expected = []
    for word in text.split():
        rest = MARK + word
        while rest:
            # A piece of letters ends where letters end; TINY has none that doesn't.
            fitting = [piece for piece in TINY.vocab[260:] if rest.startswith(piece)]
            expected += [max(fitting, key=len)] if fitting else ["<0x78>"]
            rest = rest[len(expected[-1]) if fitting else 1 :]
    assert [TINY.vocab[index] for index in TINY.encode([text], 99)[0][:-1]] == expected


@pytest.mark.parametrize("max_length", [2, 7])
def test_a_long_text_loses_its_end_in_both(joint, pairs, max_length):
    graph = GraphReversibleTokenizer(joint, max_length)
    whole, cut = joint.encode(pairs[:99], 999), joint.encode(pairs[:99], max_length)
    assert cut == [[*row[: max_length - 1], joint.end_id] if len(row) > max_length else row for row in whole]
    np.testing.assert_array_equal(graph(tf.constant(pairs[:99])), joint.pad(cut))


def test_long_lines_of_one_run_take_no_quadratic_time(joint, joint_graph):
    texts = ["word " * 30_000, "x" * 300_000, "語" * 100_000]
    assert_same(joint_graph, joint, texts)
    assert joint.decode(joint.encode(["x" * 3 * MAX_RUN_CHARACTERS], 200)[0]) == "x" * 3 * MAX_RUN_CHARACTERS


def test_no_text_and_bytes_that_are_not_utf_8(joint, joint_graph):
    encode, decode = joint_graph
    assert encode(tf.constant([], tf.string)).shape == (0, 1)
    assert encode(tf.constant(["", " \n"])).numpy().tolist() == [[joint.end_id]] * 2
    broken = tf.constant([b"caf\xe9 ol\xff\xfee", b"cut \xe4\xb8"])
    np.testing.assert_array_equal(encode(broken), joint.pad(joint.encode(["caf ole", "cut "], MAX_LENGTH)))
    assert decode(tf.zeros((2, 0), tf.int32)).numpy().tolist() == [b"", b""]


def test_a_text_never_makes_a_special_piece(joint):
    ids = joint.encode(["[END] [PAD] <0x41> [MASK]"], 99)[0]
    assert not set(ids[:-1]) & set(range(len(SPECIAL_PIECES)))
    assert joint.decode(ids) == "[END] [PAD] <0x41> [MASK]"
    assert joint.decode([joint.start_id, *ids, 0, 0]) == joint.decode(ids)


def test_learning_gives_the_same_pieces_in_every_process(tmp_path, pairs):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(pairs[:1500]))
    program = (
        "import json, pathlib, hashlib\nfrom keras_transformer.data.reversible_tokenizer import ReversibleTokenizer\n"
        f"texts = json.loads(pathlib.Path({str(path)!r}).read_text())\n"
        "print(hashlib.sha256(ReversibleTokenizer.learn(texts, 999).to_json().encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(digests) == 1


def test_learning_keeps_to_its_size(pairs):
    assert ReversibleTokenizer.learn(pairs[:500], 400).vocab_size <= 400
    with pytest.raises(ValueError, match=r"vocab_size=262 has no room beside the 261 pieces that are always there"):
        ReversibleTokenizer.learn(["a"], 262)
    with pytest.raises(ValueError, match="none of the 2 has a word in it"):
        ReversibleTokenizer.learn(["", "\n"], 900)


def test_what_is_saved_is_read_back(tmp_path, joint, nasty_texts):
    joint.save(tmp_path / "tokenizer.json")
    for again in (ReversibleTokenizer.load(tmp_path), ReversibleTokenizer.from_json(joint.to_json())):
        assert again.vocab == joint.vocab
        assert again.encode(nasty_texts, 50) == joint.encode(nasty_texts, 50)


def test_a_file_of_either_kind_is_known_by_itself(tmp_path, joint, learned):
    joint.save(tmp_path / "a" / "tokenizer.json")
    learned.save(tmp_path / "b" / "tokenizer.json")
    for folder, tokenizer in (("a", joint), ("b", learned)):
        for place in (tmp_path / folder, tmp_path / folder / "tokenizer.json"):
            again = load_tokenizer(place)
            assert (type(again), again.vocab) == (type(tokenizer), tokenizer.vocab)
    (tmp_path / "vocab.txt").write_text("\n".join([*WORD_PIECES, "a"]) + "\n")
    assert load_tokenizer(tmp_path).vocab_size == 6
    for kind in ("BPE", "Unigram"):
        (tmp_path / "a" / "tokenizer.json").write_text(json.dumps({"model": {"type": kind}}))
        with pytest.raises(ModelFileError, match=rf"a: tokenizer\.json: is of kind {kind}, and only WordPiece and our"):
            load_tokenizer(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "isn't readable JSON"),
        ("[]", "isn't a file of ReversibleTokenizer.save"),
        ('{"model": {"type": "BPE"}}', "isn't a file of ReversibleTokenizer.save"),
        (json.dumps({"format": "keras_transformer reversible pieces 1", "vocab": [1]}), "isn't a list of strings"),
        (
            json.dumps({"format": "keras_transformer reversible pieces 1", "vocab": FIRST[:-1]}),
            f"piece 260 is None, not '{MARK}'",
        ),
        (json.dumps({"format": "keras_transformer reversible pieces 1", "vocab": [*FIRST, "a", "a"]}), "'a' stands tw"),
        (
            json.dumps({"format": "keras_transformer reversible pieces 1", "vocab": [*FIRST, "a", "ab"]}),
            r"the piece 'ab' can't be spelled: \['b'\] aren't pieces",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(text, message):
    with pytest.raises(ModelFileError, match=message):
        ReversibleTokenizer.from_json(text)


def test_arguments_that_make_no_sense_are_refused(joint):
    with pytest.raises(TypeError, match=r"texts='a b' is one string: a list of texts is needed. Use \[text\]"):
        joint.encode("a b", 9)
    with pytest.raises(TypeError, match=r"texts\[1\]=None is no string"):
        joint.encode(["a", None], 9)
    with pytest.raises(ValueError, match=r"max_length=1 has no room .* Use max_length=2 or more"):
        joint.encode(["a"], 1)
    with pytest.raises(ValueError, match=r"id 99999 isn't in the vocabulary"):
        joint.decode([99999])


def test_what_runs_in_the_graph_is_chosen_by_its_kind(joint, learned):
    assert isinstance(tokenizer_in_graph(joint, 9), GraphReversibleTokenizer)
    assert isinstance(tokenizer_in_graph(learned, 9), GraphWordPiece)
    assert isinstance(detokenizer_in_graph(joint), GraphDetokenizer)


@pytest.mark.parametrize(("model", "kind"), [(models.BPE(), "BPE"), (models.Unigram(), "Unigram")])
def test_a_tokenizer_that_cannot_run_in_the_graph_is_refused_by_its_kind(model, kind):
    with pytest.raises(UserError, match=rf"the tokenizer is of kind {kind}, and only WordPiece and .*byte-level BPE"):
        tokenizer_in_graph(Tokenizer(model), 9)
    with pytest.raises(UserError, match=rf"of kind {kind}"):
        detokenizer_in_graph(Tokenizer(model))


def test_word_pieces_cannot_become_text_in_the_graph(learned):
    with pytest.raises(UserError, match="is WordPiece, which doesn't keep where spaces were"):
        detokenizer_in_graph(learned)


LOADER = """
import json, sys
sys.modules.update(dict.fromkeys(["keras", "keras_transformer", "tensorflow_text", "tokenizers"]))
import tensorflow as tf
folder, texts = sys.argv[1], json.load(sys.stdin)
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    signature = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder).signature_def["serving_default"]
    feed = {signature.inputs["texts"].name: [text.encode() for text in texts]}
    same = session.run(signature.outputs["texts"].name, feed)
print(json.dumps([text.decode() for text in same]))
"""


def test_a_saved_model_gives_texts_back_through_the_loader_of_tensorflow_serving(
    forked, tmp_path, joint, joint_graph, pairs
):
    module = tf.Module()
    module.encode, module.decode = joint_graph
    serve = tf.function(
        lambda texts: {"texts": module.decode(module.encode(texts))},
        input_signature=[tf.TensorSpec((None,), tf.string, name="texts")],
        autograph=False,
    )
    tf.saved_model.save(module, str(tmp_path), signatures=serve)
    texts = [*pairs[:19], "中文 %(name)s"]
    done = forked.run(LOADER, tmp_path, given=json.dumps(texts))
    assert done.returncode == 0, done.stderr
    expected = [joint.decode(row) for row in joint.encode(texts, MAX_LENGTH)]
    assert json.loads(done.stdout.splitlines()[-1]) == expected
