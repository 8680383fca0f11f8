"""WordPiece: the ids of MiniLM's own tokenizer, a loop oracle, learning that repeats itself, text that bites."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from keras_transformer.data import assets
from keras_transformer.data.tokenizer import MAX_WORD_CHARACTERS, SPECIAL_PIECES, WordPiece
from keras_transformer.files import ModelFileError

SMALL_VOCAB = [*SPECIAL_PIECES, "a", "##b", "##ab", "ab", "b", "##a", "abba", ",", "##c"]


@pytest.fixture(scope="module")
def small() -> WordPiece:
    return WordPiece(SMALL_VOCAB)


def loop_pieces(word: str, vocab: list[str]) -> list[str]:
    """Longest match first, by trying every length: the definition."""
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces


def minilm_reference() -> Tokenizer:
    reference = Tokenizer.from_file(str(assets.minilm_folder() / "tokenizer.json"))
    reference.no_padding()
    reference.no_truncation()
    return reference


def test_every_real_text_has_the_ids_of_minilms_own_tokenizer(minilm, real_texts):
    expected = [encoding.ids for encoding in minilm_reference().encode_batch(real_texts)]
    assert minilm.encode(real_texts, 512) == expected


def test_nasty_texts_have_the_ids_of_minilms_own_tokenizer(minilm, nasty_texts):
    reference = minilm_reference()
    for text in nasty_texts:
        if "[CLS]" not in text:
            assert minilm.encode([text], 10_000) == [reference.encode(text).ids]


def test_a_special_piece_in_a_text_is_three_words(minilm):
    ids = minilm.encode(["[SEP] [PAD]"], 64)[0]
    assert [minilm.vocab[index] for index in ids] == ["[CLS]", "[", "sep", "]", "[", "pad", "]", "[SEP]"]
    assert minilm.pad_id not in ids


def test_a_tokenizer_that_reads_the_mask_finds_it_in_capitals_alone(minilm):
    asking = WordPiece(minilm.vocab, reads_mask=True)
    ids = asking.encode(["a[MASK]b [mask]", "[SEP] [MASK][MASK]"], 64)
    pieces = [[asking.vocab[index] for index in row[1:-1]] for row in ids]
    assert pieces == [["a", "[MASK]", "b", "[", "mask", "]"], ["[", "sep", "]", "[MASK]", "[MASK]"]]
    assert (asking.asked_id, minilm.asked_id) == (103, None)


def test_reading_the_mask_changes_no_other_text_and_is_kept_in_the_file(minilm, real_texts):
    again = WordPiece.from_json(WordPiece(minilm.vocab, reads_mask=True).to_json())
    assert again.reads_mask
    assert not WordPiece.from_json(minilm.to_json()).reads_mask
    assert again.encode(real_texts[:500], 64) == minilm.encode(real_texts[:500], 64)


def test_a_vocabulary_without_a_mask_cannot_read_one():
    with pytest.raises(ValueError, match=r"the piece \[MASK\] is missing among 4"):
        WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]"], reads_mask=True)


def test_vocab_txt_and_tokenizer_json_give_one_tokenizer(minilm):
    from_text = WordPiece.load(assets.minilm_folder() / "vocab.txt")
    assert from_text.vocab == minilm.vocab
    assert from_text.lowercase is minilm.lowercase is True
    assert (minilm.vocab_size, minilm.pad_id, minilm.unknown_id) == (30522, 0, 100)


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=5))
def test_pieces_are_those_of_the_loop(small, words):
    ids = small.encode([" ".join(words)], 100)[0]
    assert [small.vocab[index] for index in ids[1:-1]] == [p for word in words for p in loop_pieces(word, SMALL_VOCAB)]


def test_a_word_of_over_a_hundred_characters_is_unknown():
    tokenizer = WordPiece([*SPECIAL_PIECES, "x", "##x"])
    assert tokenizer.encode(["x" * MAX_WORD_CHARACTERS], 200) == [[2, 5, *[6] * 99, 3]]
    assert tokenizer.encode(["x" * (MAX_WORD_CHARACTERS + 1)], 200) == [[2, 1, 3]]


def test_one_text_alone_has_the_same_ids_as_in_a_batch(minilm, real_texts, nasty_texts):
    texts = [*real_texts[:50], *nasty_texts]
    assert [minilm.encode([text], 64)[0] for text in texts] == minilm.encode(texts, 64)


@pytest.mark.parametrize("max_length", [3, 4, 7, 64])
def test_a_long_text_loses_its_end_and_keeps_its_separator(minilm, max_length):
    whole = minilm.encode(["one two three four five six"], 512)[0]
    cut = minilm.encode(["one two three four five six"], max_length)[0]
    assert cut == (whole if max_length >= len(whole) else [*whole[: max_length - 1], minilm.end_id])


def test_lone_surrogates_are_dropped_and_pairs_joined(minilm):
    assert minilm.encode(["a \ud800 b\udfff"], 9) == minilm.encode(["a  b"], 9)
    assert minilm.encode(["\ud83d\ude00"], 9) == minilm.encode(["😀"], 9)


def test_a_megabyte_in_one_line_is_cut_to_the_length_asked_for(minilm):
    ids = minilm.encode(["word " * 200_000, "x" * 1_000_000], 16)
    assert [len(row) for row in ids] == [16, 3]


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_ids_of_the_vocabulary_between_start_and_end(learned, text):
    ids = learned.encode([text], 33)[0]
    assert (ids[0], ids[-1]) == (learned.start_id, learned.end_id)
    assert 2 <= len(ids) <= 33
    assert all(0 < index < learned.vocab_size for index in ids)


def test_decoding_gives_the_normalised_words_back(learned, real_texts):
    texts = real_texts[:500]
    ids = learned.encode(texts, 1000)
    whole = [(text, row) for text, row in zip(texts, ids, strict=True) if learned.unknown_id not in row]
    assert len(whole) > 400
    for text, row in whole:
        assert learned.decode(row) == " ".join(learned.words(text))


def test_decoding_keeps_unknown_and_refuses_what_is_no_id(small):
    assert small.decode([2, 5, 6, 1, 12, 3, 0, 0]) == "ab [UNK] ,"
    with pytest.raises(ValueError, match=r"id 14 isn't in the vocabulary: ids are 0 to 13"):
        small.decode([14])
    with pytest.raises(ValueError, match="id -1"):
        small.decode([-1])


def test_padding_fills_up_with_zero(small):
    padded = small.pad([[2, 5, 3], [2, 3]])
    assert padded.dtype == np.int32
    np.testing.assert_array_equal(padded, [[2, 5, 3], [2, 3, 0]])
    np.testing.assert_array_equal(small.pad([[2, 3]], length=5), [[2, 3, 0, 0, 0]])
    assert small.pad([]).shape == (0, 0)
    with pytest.raises(ValueError, match=r"length=2 is too short for a row of 3 ids. Use length=3"):
        small.pad([[2, 5, 3]], length=2)


def test_learning_gives_the_same_pieces_in_every_process(tmp_path, learned, real_texts):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(real_texts[:2000]))
    program = (
        "import json, pathlib, sys, hashlib\nfrom keras_transformer.data.tokenizer import WordPiece\n"
        f"texts = json.loads(pathlib.Path({str(texts)!r}).read_text())\n"
        "print(hashlib.sha256(WordPiece.learn(texts, 1501).to_json().encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(4)
    }
    assert len(digests) == 1


def test_learned_pieces_start_with_the_special_ones_and_merge_what_is_frequent():
    tokenizer = WordPiece.learn(["low lower lowest, Low"] * 5, vocab_size=61)
    assert tokenizer.vocab[:5] == list(SPECIAL_PIECES)
    assert {"l", "##l", ",", "low"} <= set(tokenizer.vocab)
    assert "L" not in tokenizer.vocab
    assert tokenizer.decode(tokenizer.encode(["LOWEST"], 9)[0]) == "lowest"


def test_learning_keeps_to_the_size_and_to_the_frequent_characters():
    texts = ["aaa bbb"] * 9 + ["".join(map(chr, range(0x430, 0x450)))]
    tokenizer = WordPiece.learn(texts, vocab_size=29)
    assert tokenizer.vocab_size <= 29
    assert {"a", "b", "##a", "##b"} <= set(tokenizer.vocab)
    assert tokenizer.encode(["b" + "".join(map(chr, range(0x430, 0x436)))], 9) == [
        [tokenizer.start_id, tokenizer.unknown_id, tokenizer.end_id]
    ]


def test_a_cased_tokenizer_keeps_case_and_accents():
    tokenizer = WordPiece.learn(["Élan Vital élan"] * 3, vocab_size=101, lowercase=False)
    assert tokenizer.words("Élan Vital") == ["Élan", "Vital"]
    assert WordPiece.from_json(tokenizer.to_json()).words("Élan") == ["Élan"]


def test_what_is_saved_is_read_back_and_hugging_face_reads_it_too(tmp_path, learned, nasty_texts):
    learned.save(tmp_path / "tokenizer.json")
    for again in (WordPiece.load(tmp_path), WordPiece.from_json(learned.to_json())):
        assert again.vocab == learned.vocab
        assert again.encode(nasty_texts, 50) == learned.encode(nasty_texts, 50)
    other = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode("naïve café").ids == learned.encode(["naïve café"], 50)[0][1:-1]
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_folder_with_vocab_txt_follows_its_config(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, "A", "a"]) + "\n")
    assert WordPiece.load(tmp_path).encode(["A"], 5) == [[2, 6, 3]]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert WordPiece.load(tmp_path).encode(["A"], 5) == [[2, 5, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "BPE"}}, "model.type is 'BPE', and only 'WordPiece' is supported"),
        ({"model": {"max_input_chars_per_word": 7}}, "max_input_chars_per_word is 7, and only 100"),
        ({"model": {"vocab": {"[PAD]": 0, "x": 2}}}, r"its ids aren't 0 to 1, each once"),
        ({"model": {"vocab": {"[PAD]": 0}}}, r"the piece \[UNK\] is missing"),
        ({"model": {"vocab": {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3}}}, r"\[PAD\] has id 1, but 0 is padding"),
        ({"model": {"vocab": [1, 2]}}, "isn't a tokenizer.json of BERT's kind"),
        ({"normalizer": None}, "isn't a tokenizer.json of BERT's kind"),
        ({"normalizer": {"clean_text": False}}, "normalizer.clean_text is False"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer.type is 'Whitespace'"),
        ({"added_tokens": [{"id": 14, "content": "<new>"}]}, r"the added token '<new>' \(id 14\) isn't in the vocab"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_with_its_file(tmp_path, small, change, message):
    description = json.loads(small.to_json())
    for key, value in change.items():
        description[key] = {**description[key], **value} if isinstance(value, dict) else value
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    with pytest.raises(ModelFileError, match=message) as caught:
        WordPiece.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"text"', b"[" * 100_000, b"null"])
def test_a_broken_tokenizer_json_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        WordPiece.load(path)


def test_a_tokenizer_json_cut_short_anywhere_is_named(small):
    text = small.to_json()
    for percent in range(0, 100, 7):
        with pytest.raises(ModelFileError):
            WordPiece.from_json(text[: len(text) * percent // 100])


def test_missing_and_broken_vocabularies_are_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"has neither tokenizer\.json nor vocab\.txt"):
        WordPiece.load(tmp_path)
    with pytest.raises(ModelFileError, match=r"none\.txt: there is no such file"):
        WordPiece.load(tmp_path / "none.txt")
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ModelFileError, match=r"vocab\.txt: can't be read as UTF-8"):
        WordPiece.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\nx\n")
    with pytest.raises(ModelFileError, match="the piece 'x' stands twice"):
        WordPiece.load(tmp_path)


def test_arguments_that_make_no_sense_are_refused(small):
    with pytest.raises(TypeError, match=r"texts='a b' is one string: a list of texts is needed. Use \[text\]"):
        small.encode("a b", 9)
    with pytest.raises(TypeError, match=r"texts\[1\]=None is no string"):
        small.encode(["a", None], 9)
    with pytest.raises(ValueError, match=r"max_length=2 has no room .* Use max_length=3 or more"):
        small.encode(["a"], 2)
    with pytest.raises(ValueError, match="vocab_size=7 has no room"):
        WordPiece.learn(["a"], 7)
    with pytest.raises(ValueError, match="none of the 2 has a word in it"):
        WordPiece.learn(["", " \t"], 100)


def test_it_imports_neither_tensorflow_nor_keras():
    program = "import sys, keras_transformer.data.tokenizer; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
