"""What a language model reads of a text, and what it is scored on."""

import pytest

from keras_transformer.checks import UserError
from keras_transformer.data.continuations import beginnings, new_tokens, windows
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer

END = 2


@pytest.fixture(scope="module")
def tokenizer():
    return ReversibleTokenizer.learn(["a b c d e f g"], 300, min_frequency=1)


def test_half_of_the_room_is_written_unless_asked():
    assert [new_tokens(length, None) for length in (2, 7, 64)] == [1, 3, 32]
    assert new_tokens(7, 6) == 6
    for length, asked in ((7, 7), (7, 8)):
        with pytest.raises(UserError, match=rf"the model has room for {length} word pieces.* Use {length - 1} or less"):
            new_tokens(length, asked)


def test_a_text_begins_with_the_end_of_another_and_its_own_end_is_left_out(tokenizer):
    (ids,) = tokenizer.encode(["a b c"], 99)
    assert beginnings(tokenizer, ["a b c", ""], 99) == ([ids[:-1], []], [[END, *ids[:-1]], [END]])
    assert beginnings(tokenizer, ["a b c"], 2).prompts == [ids[-3:-1]]


@pytest.mark.parametrize("max_length", [1, 3, 4, 50])
def test_each_token_is_foreseen_once(tokenizer, max_length):
    texts = ["a b c d e f g", "a"]
    runs = windows(tokenizer, texts, max_length)
    assert max(map(len, runs)) <= max_length + 1
    assert [token for run in runs for token in run[1:]] == [
        token for ids in tokenizer.encode(texts, 99) for token in ids
    ]
    assert runs[0][0] == END
