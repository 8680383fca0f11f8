"""Small models that write, of weights that make each token depend on those before, and their greedy ids by a loop."""

import numpy as np

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
MOST = {"translate": ROOM, "language-model": ROOM // 2}  # new tokens
OFTEN = 194  # an id that the translator writes often: its logit is given to the end


def learned():
    from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer

    return ReversibleTokenizer.learn(TEXTS, 331, min_frequency=1)


def made(task, vocab_size, **options):
    """One layer of each kind, wide enough that the converter quantises them; one has its tables tied."""
    from keras_transformer.models import CausalLM, Seq2Seq

    size = {"model_dim": 34, "num_heads": 2, "inner_dim": 67, "dropout": 0.0, **options}
    if task == "translate":
        return sharpened(Seq2Seq(vocab_size, 1, tie_embeddings=False, **size), OFTEN)
    return sharpened(CausalLM(vocab_size, 1, max_length=ROOM, **size))


def sharpened(model, often=None, end=2):
    """Large random matrices; biases and norms stay, since a random bias would drown all else."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        if len(weight.shape) == 2:
            scale = 0.5 if "table" in weight.path else 2 / np.sqrt(weight.shape[0])
            weight.assign(random.normal(scale=scale, size=weight.shape))
    if often is not None:
        kernel = np.array(model.get_layer("logits").kernel)
        kernel[:, [end, often]] = kernel[:, [often, end]]
        model.get_layer("logits").kernel.assign(kernel)
    return model


class GreedyLoop:
    """Ids chosen one by one, each by a pass over the whole without a cache."""

    def __init__(self, model, task, tokenizer):
        import tensorflow as tf

        self.task, self.tokenizer = task, tokenizer
        ids = tf.TensorSpec((None, None), tf.int32)
        inputs = {"source_ids": ids, "target_ids": ids} if task == "translate" else ids
        self.whole = tf.function(lambda inputs: model(inputs, training=False), input_signature=[inputs])

    def read(self, text):
        """The ids that the model reads of a text."""
        if self.task == "translate":
            return self.tokenizer.encode([text], ROOM)[0]
        return [self.tokenizer.end_id, *self.tokenizer.encode([text], 999)[0][:-1]][-(ROOM - MOST[self.task]) :]

    def logits(self, read, found):
        """Of the token after those that were found."""
        if self.task == "translate":
            target = [self.tokenizer.start_id, *found]
            inputs = {"source_ids": np.array([read], "int32"), "target_ids": np.array([target], "int32")}
        else:
            inputs = np.array([[*read, *found]], "int32")
        return self.whole(inputs).numpy()[0, -1]

    def written(self, text):
        """The ids that the model writes for a text."""
        read, found = self.read(text), []
        while len(found) < MOST[self.task] and self.tokenizer.end_id not in found:
            found.append(int(np.argmax(self.logits(read, found))))
        return found
