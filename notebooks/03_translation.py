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
# # Translation with the Transformer of 2017
#
# Short messages of programs, English to German: an encoder reads the source, a decoder writes the target token by
# token, and its cross-attention shows which source word each target word was made of.
#
# **Command:** `jupyter execute notebooks/03_translation.ipynb` (with `pip install -e ".[notebooks,eval]"`).
# **Run time:** under 5 minutes on two cores, fetching not counted.
# **Expected:** a model of a million and a half weights that gets short messages half right: BLEU about 26 greedy, and
# 28 by a beam of four. `keras-transformer train translate` takes longer and more data; `benchmarks/translation.py`
# measures that, beside PyTorch.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from keras_transformer.data.catalog import english_german
from keras_transformer.data.pair_batches import PairBatches
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.text import Pairs
from keras_transformer.distillation import with_taps
from keras_transformer.evaluation import evaluate_translations
from keras_transformer.generation import Decoding
from keras_transformer.generation.keras_writers import Translator
from keras_transformer.models import Seq2Seq
from keras_transformer.models.decoding import beam
from keras_transformer.scores import placeholder_survival
from keras_transformer.training.optimizers import WarmUpInverseRoot, paper_adam
from keras_transformer.training.samples import SampleOutputs
from keras_transformer.training.token_losses import MaskedCrossEntropy
from keras_transformer.training.token_metrics import TokenAccuracy

keras.utils.set_random_seed(0)
EPOCHS, MAX_LENGTH = 16, 16

# %% [markdown]
# ## Data
#
# One vocabulary for both languages, learned from the training texts. Pieces carry their spaces, so that any text can be
# put together again, and placeholders such as `%(name)s` come through. Test pairs have no near-duplicate among the
# training pairs.

# %%
data = english_german()
tokenizer = ReversibleTokenizer.learn([*data.train.sources, *data.train.targets], 4000)
train_ids, test_ids = (
    [tokenizer.encode(side, MAX_LENGTH + 1) for side in (part.sources, part.targets)]
    for part in (data.train, data.test)
)
short, tested = (
    [row for row, ids in enumerate(zip(*both, strict=True)) if max(map(len, ids)) <= MAX_LENGTH]
    for both in (train_ids, test_ids)
)
source_ids, target_ids = ([side[row] for row in short] for side in train_ids)
test = Pairs(*([side[row] for row in tested] for side in (data.test.sources, data.test.targets)))
print(len(short), "pairs to learn from,", len(test), "to test with")
for row in short[:4]:
    print(f"{data.train.sources[row]!r} -> {data.train.targets[row]!r}")
print(*(tokenizer.vocab[piece] for piece in source_ids[0]))

# %% [markdown]
# ## Model and training
#
# Two layers a side, 128 wide, norms first. The optimizer, the warm-up of the rate and the label smoothing are those of
# Vaswani et al. 2017, section 5; batches have about equal numbers of tokens.

# %%
model = Seq2Seq(tokenizer.vocab_size, 2, 128, 4, 512, norm_first=True)
translator = Translator(model, tokenizer, MAX_LENGTH)
batches = PairBatches(
    source_ids, target_ids, max_tokens=4096, start_id=tokenizer.start_id, end_id=tokenizer.end_id, length_multiple=4
)
rate = WarmUpInverseRoot(model.model_dim, warmup_steps=200, factor=0.6)
model.compile(paper_adam(rate, global_clipnorm=1.0), MaskedCrossEntropy(0.1), metrics=[TokenAccuracy()])
shown = SampleOutputs(translator.write, test.sources[:3], every_epochs=4)
history = model.fit(
    batches.dataset(0, EPOCHS),
    epochs=EPOCHS,
    steps_per_epoch=batches.steps_per_epoch,
    callbacks=[shown],
    shuffle=False,
    verbose=0,
).history
f"{model.count_params():,} weights, {EPOCHS * batches.steps_per_epoch} steps"

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
epochs = np.arange(1, EPOCHS + 1)
left.plot(epochs, history["loss"], "o-")
left.set(xlabel="epoch", ylabel="smoothed cross-entropy", title="Loss")
right.plot(epochs, history["token_accuracy"], "o-")
right.set(xlabel="epoch", ylabel="share of tokens", title="Right next token, training texts")
plt.show()

# %% [markdown]
# ## How good is it?
#
# BLEU and chrF on the test pairs: greedy decoding takes the likeliest token each time, a beam search keeps the four
# likeliest beginnings.

# %%
for name, decoding in (("greedy", Decoding()), ("beam of 4", Decoding(beam=4))):
    scores = evaluate_translations(translator, test, decoding)
    print(f"{name}: BLEU {scores.bleu:.1f}, chrF {scores.chrf:.1f}, {scores.n} pairs")
written = translator.write(test.sources)
print(placeholder_survival(test.sources, written))
for row in range(0, 40, 5):
    print(f"{test.sources[row]!r} -> {written[row]!r} (true: {test.targets[row]!r})")

# %% [markdown]
# ## Several translations of one text
#
# A beam search ends with several texts, ranked by their log-probability over a penalty of their length.

# %%
sentence = test.sources[0]
prompted = model.prompt(tokenizer.pad(tokenizer.encode([sentence], MAX_LENGTH)), MAX_LENGTH, tokenizer.start_id)
found = beam(model.step, prompted, end_id=tokenizer.end_id, max_tokens=MAX_LENGTH, width=4, num_best=4)
print(sentence)
for ids, score in zip(found.token_ids[0].numpy(), found.score[0].numpy(), strict=True):
    print(f"  {score:.2f}  {tokenizer.decode(ids[ids != 0].tolist())}")

# %% [markdown]
# ## What each word was made of
#
# The weights of the cross-attention, mean over the heads of the last layer: a row for each token that is written, a
# column for each token that was read. A tap is a tensor that the model computes anyway.

# %%
tap = f"decoder/{model.num_decoder_layers - 1}/cross_attention"
tapped = with_taps(model, [tap])
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
longest = sorted(range(len(test)), key=lambda row: -len(test.sources[row].split()))
for axis, row in zip(axes, longest[:3], strict=True):
    [source] = tokenizer.encode([test.sources[row]], MAX_LENGTH)
    [target] = translator.translate([source])
    moved = [tokenizer.start_id, *target[:-1]]
    weights = tapped({"source_ids": np.array([source]), "target_ids": np.array([moved])}).taps[tap]  # (1, H, T, S)
    axis.imshow(np.mean(weights[0], axis=0), cmap="viridis", vmin=0)
    axis.set_xticks(range(len(source)), [tokenizer.vocab[piece] for piece in source], rotation=90)
    axis.set_yticks(range(len(target)), [tokenizer.vocab[piece] for piece in target])
    axis.set(xlabel="read", ylabel="written")
plt.show()

# %% [markdown]
# ## A token costs the same, however long the text is
#
# The decoder keeps keys and values of what it has written, tensors in and tensors out. `model.step` reads one token
# and gives the same logits as the whole model does:

# %%
source = np.array(tokenizer.encode([sentence], MAX_LENGTH))
logits, state = model.prompt(source, MAX_LENGTH, tokenizer.start_id)
tokens = [tokenizer.start_id]
for _ in range(5):
    whole = model({"source_ids": source, "target_ids": np.array([tokens])})[:, -1]
    print(f"{len(tokens)} tokens: largest difference {np.max(np.abs(whole - logits)):.1e}")
    tokens.append(int(np.argmax(logits)))
    logits, state = model.step(np.array(tokens[-1:]), state)
