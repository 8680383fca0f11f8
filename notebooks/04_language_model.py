# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A small language model
#
# GPT-2's layout, two layers of width 128, on the World English Bible: packing, training, perplexity, and four ways to
# choose the next word.
#
# **Command:** `jupyter execute notebooks/04_language_model.ipynb` (with `pip install -e ".[notebooks]"`).
# **Run time:** under 5 minutes on two cores, fetching not counted.
# **Expected:** a perplexity of about 80 a token and 340 a word on chapters that it hasn't seen, and words in the right
# tone. `keras-transformer train language-model` does the same from a file; `benchmarks/language_model.py` has a larger
# model beside PyTorch's.

# %%
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from keras_transformer.data.catalog import world_english_bible
from keras_transformer.data.packing import PackedBatches, pack
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.distillation import with_taps
from keras_transformer.evaluation import evaluate_language
from keras_transformer.generation import Decoding
from keras_transformer.generation.keras_writers import Continuer
from keras_transformer.models import CausalLM
from keras_transformer.models.decoding import greedy
from keras_transformer.scores import distinct_n, token_entropy
from keras_transformer.training.token_losses import MaskedCrossEntropy, token_cross_entropy
from keras_transformer.training.token_metrics import TokenCrossEntropy

keras.utils.set_random_seed(0)
EPOCHS, MAX_LENGTH = 3, 128

# %% [markdown]
# ## Data
#
# Chapters are written one after another, with the end of a text between them, and cut into rows of one length: no
# padding, and each token is predicted exactly once an epoch.

# %%
bible = world_english_bible()
tokenizer = ReversibleTokenizer.learn(bible.train, 4000)
whole = 1 << 20  # longer than any chapter
train_ids, test_ids = ([ids[:-1] for ids in tokenizer.encode(texts, whole)] for texts in (bible.train, bible.test))
batches = PackedBatches(train_ids, length=MAX_LENGTH, batch_size=32, end_id=tokenizer.end_id)
print(f"{len(bible.train)} chapters, {sum(map(len, train_ids)):,} tokens, {batches.steps_per_epoch} steps an epoch")
bible.train[0][:200]

# %% [markdown]
# ## Model and training

# %%
model = CausalLM(tokenizer.vocab_size, 2, 128, 4, 512, max_length=MAX_LENGTH)
steps = EPOCHS * batches.steps_per_epoch
rate = keras.optimizers.schedules.CosineDecay(0.0, steps - 50, warmup_target=3e-3, warmup_steps=50)
model.compile(
    keras.optimizers.AdamW(rate, beta_2=0.98, global_clipnorm=1.0),
    MaskedCrossEntropy(),
    metrics=[TokenCrossEntropy()],
)
held_out = pack(test_ids, length=MAX_LENGTH, end_id=tokenizer.end_id)
history = model.fit(
    batches.dataset(0, EPOCHS),
    epochs=EPOCHS,
    steps_per_epoch=batches.steps_per_epoch,
    validation_data=(held_out.token_ids, held_out.labels),
    shuffle=False,
    verbose=0,
).history
print(f"{model.count_params():,} weights")
for epoch in range(EPOCHS):
    told = (np.exp(history[name][epoch]) for name in ("token_cross_entropy", "val_token_cross_entropy"))
    print("epoch {}: perplexity a token {:.1f}, test chapters {:.1f}".format(epoch + 1, *told))

# %% [markdown]
# ## How well does it foresee?
#
# Perplexity a token depends on the vocabulary; that of a word or a byte can be compared between models. The first
# places of a row are the hardest, since little was read before them; this small model makes little of what is far.

# %%
writer = Continuer(model, tokenizer, MAX_LENGTH)
print(evaluate_language(writer, bible.test))
losses = np.concatenate(
    [
        token_cross_entropy(held_out.labels[first : first + 32], model(held_out.token_ids[first : first + 32]))
        for first in range(0, len(held_out.labels), 32)
    ]
)
figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
groups = losses[:-1].reshape(-1, MAX_LENGTH // 8, 8).mean(axis=(0, 2))  # the last row has padding
axes.plot(8 * np.arange(len(groups)) + 4, np.exp(groups), "o-")
axes.set(xlabel="place in the row", ylabel="perplexity a token", title="Test chapters, mean over 8 places")
plt.show()

# %% [markdown]
# ## Four ways to choose the next word
#
# Greedy decoding repeats itself; drawing from the whole distribution now and then takes something that nobody would
# write; a temperature below 1, or only the likeliest tokens that make up nine tenths, stands between them.

# %%
beginning = "In those days"
ways = {
    "greedy": Decoding(max_tokens=48),
    "drawn": Decoding(temperature=1.0, max_tokens=48),
    "temperature 0.7": Decoding(temperature=0.7, max_tokens=48),
    "top-p 0.9": Decoding(top_p=0.9, max_tokens=48),
}
for name, decoding in ways.items():
    texts = writer.write([beginning] * 8, decoding)
    pieces = [text.split() for text in texts]
    print(f"{name}: {distinct_n(pieces, 2):.2f} distinct pairs, entropy {token_entropy(pieces):.1f} bits a word")
    print(f"   {texts[0]}")

# %% [markdown]
# ## What it expects, and what it looks at

# %%
text = "And it happened, when Jesus had finished these words, that he departed from"
[ids] = tokenizer.encode([text], MAX_LENGTH)
ids = np.array([[tokenizer.end_id, *ids[:-1]]])
tap = f"decoder/{model.num_layers - 1}/attention"
outputs = with_taps(model, [tap])(ids)
chances = keras.ops.convert_to_numpy(keras.ops.softmax(outputs.logits[0, -1]))
best = np.argsort(chances)[::-1][:8]

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
left.barh([tokenizer.vocab[piece] for piece in best[::-1]], chances[best[::-1]])
left.set(xlabel="probability", title=f"… {text[-30:]} …")
names = [tokenizer.vocab[piece] for piece in ids[0]]
right.imshow(np.mean(outputs.taps[tap][0], axis=0), cmap="viridis", vmin=0)
right.set_xticks(range(len(names)), names, rotation=90)
right.set_yticks(range(len(names)), names)
right.set(title="attention of the last layer, mean over heads")
plt.show()

# %% [markdown]
# ## Why there is a cache
#
# Without one, each new token reads the whole text again. With one, it reads itself; the tokens are the same.

# %%
prompt = ids[:, :8].astype("int32")
new = MAX_LENGTH - prompt.shape[1]
cached = tf.function(
    lambda token_ids: (
        greedy(model.step, model.prompt(token_ids, MAX_LENGTH), end_id=tokenizer.end_id, max_tokens=new).token_ids
    ),
    autograph=False,
)
next_token = tf.function(
    lambda token_ids: tf.argmax(model(token_ids)[:, -1], axis=-1, output_type=tf.int32),
    input_signature=[tf.TensorSpec((1, None), tf.int32)],
    autograph=False,
)
cached(prompt), next_token(prompt)  # the first call makes the graph
start = time.perf_counter()
quick = cached(prompt).numpy()[0]
quick = quick[quick != 0]
with_cache = time.perf_counter() - start
start, slow = time.perf_counter(), prompt
for _ in quick:
    slow = np.concatenate([slow, next_token(slow).numpy()[:, None]], axis=1)
without = time.perf_counter() - start
print(f"{len(quick)} tokens: {1000 * with_cache:.0f} ms with the cache, {1000 * without:.0f} ms without")
print("the same tokens:", np.array_equal(slow[0, prompt.shape[1] :], quick))
