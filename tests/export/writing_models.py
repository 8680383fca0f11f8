"""Small models that write, of weights that make each token depend on those before, and Keras' own words for them."""

import numpy as np
from weights import randomise

TEXTS = [
    "Save the file as %(name)s before you close it.",
    "Datei „%s“ konnte nicht geöffnet werden",
    "the dog sees a house today.",
    "in the beginning",
    "電車は東京駅を出ました。",
    "עברית וגם English",
    "naïve 🙂 ﬁn",
    "a",
    "In the beginning was the word, and the word was long, very long, and it went on and on and on, so to speak.",
]
ROOM = 23  # ids of a source, and of what is written


def learned():
    from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer

    return ReversibleTokenizer.learn(TEXTS, 331, min_frequency=1)


def made(task, vocab_size, **options):
    """One layer of each kind, wide enough that the converter quantises them."""
    from keras_transformer.models import CausalLM, Seq2Seq

    size = {"model_dim": 34, "num_heads": 2, "inner_dim": 67, "dropout": 0.0, **options}
    if task == "translate":
        return randomise(Seq2Seq(vocab_size, 1, **size), seed=5, scale=0.35)
    return randomise(CausalLM(vocab_size, 1, max_length=ROOM, **size), seed=8, scale=0.35)


def greedy_by_whole_passes(model, task, tokenizer, text, most):
    """(what is read, what is written): the ids of a text, each chosen by a pass over the whole without a cache."""
    end, (ids,) = tokenizer.end_id, tokenizer.encode([text], 999)
    if task == "translate":
        (read,) = tokenizer.encode([text], ROOM)
    else:
        read = [end, *ids[:-1]][-(ROOM - most) :]
    found = []
    while len(found) < most and end not in found:
        if task == "translate":
            target = [tokenizer.start_id, *found]
            inputs = {"source_ids": np.array([read], "int32"), "target_ids": np.array([target], "int32")}
        else:
            inputs = np.array([[*read, *found]], "int32")
        found.append(int(np.argmax(model(inputs, training=False)[0, -1])))
    return read, found
