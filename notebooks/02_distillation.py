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
# # Distillation, one method after the other
#
# What a teacher has to say beyond the labels, and how to listen to it: soft targets, unlabelled examples, hidden
# states, relations between tokens, a start cut out of the teacher, temperatures that change, and a teacher that runs
# only once. Everything is so small that you can change a line and see what happens.
#
# **Command:** `jupyter execute notebooks/02_distillation.ipynb` (with `pip install -e ".[notebooks]"`).
# **Run time:** under 5 minutes on two cores.
# **Expected:** accuracy on the test pictures of .51 with the labels alone and of .78 with soft targets of all pictures,
# most of them unlabelled; the teacher has .76. One seed: two methods that lie close together may change places with
# another one. `benchmarks/distill_quality.py` compares the methods on real texts, over several seeds.

# %%
import tempfile
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_transformer.compression import cut, keep_layers
from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Scheduled,
    cache_teacher,
    cosine,
    hidden_states,
    named_pairs,
    relations,
    soft_targets,
    tap_pairs,
    true_labels,
    uniform,
    with_taps,
)
from keras_transformer.models import TextClassifier

keras.utils.set_random_seed(0)

# %% [markdown]
# ## Data
#
# Scikit-learn's digits, 8 x 8 pixels of 17 shades. A Transformer takes tokens, so each picture is a text of 64 words
# out of a vocabulary of 17; id 0 would be padding. A fifth is kept for testing. Only 150 pictures keep their label:
# -1 says that a row has none.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.data))
x, y = digits.data[order].astype("int32") + 1, digits.target[order].astype("int32")
x_train, y_train, x_test, y_test = x[:1437], y[:1437], x[1437:], y[1437:]
partly = np.where(np.arange(len(y_train)) < 150, y_train, -1)
len(y_train), int((partly >= 0).sum()), len(y_test)

# %% [markdown]
# ## The teacher
#
# Four layers of width 64. It has seen every label, as a teacher has that somebody else trained on data you don't have.

# %%
teacher = TextClassifier(18, 10, 4, 64, 4, 128, max_length=64, dropout=0.1, name="teacher")
falling_rate = keras.optimizers.schedules.CosineDecay(2e-3, decay_steps=18 * 45)  # 45 batches an epoch
teacher.compile(
    keras.optimizers.AdamW(falling_rate),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
taught = teacher.fit(x_train, y_train, batch_size=32, epochs=18, validation_data=(x_test, y_test), verbose=0)
teacher_accuracy = taught.history["val_accuracy"][-1]
f"{teacher.count_params():,} weights, accuracy {teacher_accuracy:.3f}"

# %% [markdown]
# ## What it says beyond the label
#
# The label says "3". The teacher says how much this 3 looks like an 8. At temperature 1 that is lost in small numbers;
# divided by a higher one, $\mathrm{softmax}(z / T)$ shows it, and the student is trained on it:
# $T^2\, \mathrm{KL}(\mathrm{teacher} \,\|\, \mathrm{student})$ (Hinton et al. 2015, section 2).

# %%
logits = teacher.predict(x_test, verbose=0)
unsure = np.argsort(np.sort(logits, axis=1)[:, -1] - np.sort(logits, axis=1)[:, -2])[:3]  # the smallest lead

figure, axes = plt.subplots(2, 3, figsize=(9, 4.5), layout="constrained", height_ratios=[1, 1.2])
for column, index in enumerate(unsure):
    axes[0, column].imshow(x_test[index].reshape(8, 8), cmap="gray_r")
    axes[0, column].set(title=f"label {y_test[index]}", xticks=[], yticks=[])
    for place, temperature in enumerate((1.0, 2.0, 4.0)):
        share = keras.ops.softmax(logits[index] / temperature)
        axes[1, column].bar(np.arange(10) + 0.27 * (place - 1), share, width=0.27, label=f"T = {temperature:g}")
    axes[1, column].set(xticks=range(10), xlabel="class", ylabel="teacher's probability", ylim=(0, 1))
axes[1, 0].legend()
plt.show()

# %% [markdown]
# ## Six ways to train one student
#
# Two layers of width 32, which is half of the teacher's: `hidden_states` learns a projection for that, while
# `relations` needs none. `uniform` pairs the layers. Every way has the same number of steps; only the first one leaves
# the unlabelled pictures out.
#
# Each `LossTerm` is a name for the logs, a weight and a loss. The last way starts from two of the teacher's layers,
# at the teacher's width, so that student is larger.

# %%
layers = uniform(2, 4)
soft = [LossTerm("true_labels", 0.2, true_labels), LossTerm("soft_targets", 0.8, soft_targets(temperature=2.0))]
hidden = LossTerm("hidden_states", 1.0, hidden_states(tap_pairs(layers, "hidden")))
related = LossTerm("relations", 1.0, relations(named_pairs(layers, "encoder/{}")[-1], relation_heads=4))
ways = {
    "labels only": [LossTerm("true_labels", 1.0, true_labels)],
    "soft targets, labelled pictures": soft,
    "soft targets, all pictures": soft,
    "… and hidden states": [*soft, hidden],
    "… and relations": [*soft, related],
    "… from two of the teacher's layers": soft,
}
print(*layers, sep="\n")

# %%
students, scores = {}, {}
for way, terms in ways.items():
    keras.utils.set_random_seed(1)
    if "teacher's layers" in way:
        student = cut(teacher, keep_layers([pair.teacher for pair in layers]))
    else:
        student = TextClassifier(18, 10, 2, 32, 4, 64, max_length=64, dropout=0.0, name="student")
    few = way in ("labels only", "soft targets, labelled pictures")
    rows, epochs = (150, 81) if few else (1437, 9)  # 405 steps each
    distiller = Distiller(student, teacher, terms)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, decay_steps=405)
    distiller.compile(keras.optimizers.AdamW(rate), metrics=["accuracy"])
    distiller.fit(x_train[:rows], partly[:rows], batch_size=32, epochs=epochs, verbose=0)
    students[way] = student
    scores[way] = distiller.evaluate(x_test, y_test, return_dict=True, verbose=0)
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores[way].items())
    print(f"{way}: {student.count_params():,} weights, {told}")

# %%
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
names = list(ways)[::-1]
axes.barh(names, [scores[way]["accuracy"] for way in names], color="tab:blue")
axes.axvline(teacher_accuracy, color="black", linestyle="--", label="teacher")
axes.set(xlabel="accuracy on the test pictures", title="150 labels, one budget of steps")
axes.legend(loc="lower left")
plt.show()

# %% [markdown]
# ## What they look at
#
# A tap is a tensor that the model computes anyway. How much attention each pixel gets in the last layer, mean over
# heads and over the pixels that look:

# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
axes[0].imshow(x_test[unsure[0]].reshape(8, 8), cmap="gray_r")
axes[0].set(title=f"label {y_test[unsure[0]]}", xticks=[], yticks=[])
shown = {"teacher": teacher, **{way: students[way] for way in ("labels only", "… and relations")}}
for axis, (name, model) in zip(axes[1:], shown.items(), strict=True):
    last = f"encoder/{model.num_layers - 1}/attention"
    attention = with_taps(model, [last])(x_test[unsure[:1]]).taps[last]  # (1, H, 64, 64)
    image = axis.imshow(np.mean(attention, axis=(0, 1, 2)).reshape(8, 8), cmap="viridis", vmin=0)
    axis.set(title=name, xticks=[], yticks=[])
    figure.colorbar(image, ax=axis, shrink=0.8)
plt.show()

# %% [markdown]
# ## A temperature that falls
#
# Weights and temperatures may be variables. `Scheduled` moves one with the optimizer's steps, and the history holds it
# beside the terms.

# %%
temperature = keras.Variable(4.0, trainable=False)
student = TextClassifier(18, 10, 2, 32, 4, 64, max_length=64, dropout=0.0, name="annealed")
distiller = Distiller(student, teacher, [LossTerm("soft_targets", 1.0, soft_targets(temperature))])
distiller.compile(keras.optimizers.AdamW(3e-3), metrics=["accuracy"])
steps = 9 * -(-len(x_train) // 32)
falling = Scheduled("temperature", temperature, cosine(4.0, 1.0, steps))
annealed = distiller.fit(
    x_train, batch_size=32, epochs=9, validation_data=(x_test, y_test), callbacks=[falling], verbose=0
)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
epochs = np.arange(1, 10)
left.plot(epochs, annealed.history["temperature"], "o-", color="tab:red")
left.set(xlabel="epoch", ylabel="T", title="Temperature")
right.plot(epochs, annealed.history["val_accuracy"], "o-", label="student, no label at all")
right.axhline(teacher_accuracy, color="black", linestyle="--", label="teacher")
right.set(xlabel="epoch", ylabel="accuracy", title="Test pictures")
right.legend()
plt.show()

# %% [markdown]
# ## A teacher that runs once
#
# `cache_teacher` keeps what the teacher says on disk, logits and taps, found again by example however the batches are
# made. Later epochs read it.

# %%
pictures = tf.data.Dataset.from_tensor_slices(({"token_ids": x_train}, partly)).batch(64)
with tempfile.TemporaryDirectory() as folder:
    cached = cache_teacher(teacher, pictures, folder, taps=[theirs for _, theirs in tap_pairs(layers, "hidden")])
    for name, source, data in (("live", teacher, pictures), ("cached", cached, cached.attach(pictures))):
        student = TextClassifier(18, 10, 2, 32, 4, 64, max_length=64, dropout=0.0, name=f"student_{name}")
        distiller = Distiller(student, source, [*soft, LossTerm("hidden", 1.0, hidden_states(hidden.loss.pairs))])
        distiller.compile(keras.optimizers.AdamW(3e-3))
        distiller.fit(data, epochs=1, shuffle=False, verbose=0)  # the first epoch compiles
        start = time.perf_counter()
        distiller.fit(data, epochs=4, shuffle=False, verbose=0)
        print(f"{name} teacher: {(time.perf_counter() - start) / 4:.2f} s an epoch")
