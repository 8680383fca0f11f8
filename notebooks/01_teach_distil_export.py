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
# # Teach, distil, export
#
# The main job by hand, through `compile`, `fit`, `Distiller` and the exporters: a MiniLM of 22.6M weights learns to
# tell good film reviews from bad ones, a student of about a fifth of that size learns from it, and leaves as a file
# for phones.
#
# **Command:** `jupyter execute notebooks/01_teach_distil_export.ipynb` (with `pip install -e ".[notebooks]"`).
# **Run time:** some minutes on two cores, fetching not counted. It takes a fraction of the data, so its scores are
# below those of `keras-transformer demo`, which takes all of it.

# %%
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt

from keras_transformer import export, serving
from keras_transformer.data.assets import minilm_folder
from keras_transformer.data.batching import Batches
from keras_transformer.data.catalog.movie_snippets import CLASS_NAMES, snippets
from keras_transformer.data.text import label_ids
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.distillation import Distiller, LossTerm, soft_targets, true_labels
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.student import StudentPlan, cut_student
from keras_transformer.training.precision import fastest_policy

keras.utils.set_random_seed(0)

# %% [markdown]
# ## Data
#
# Snippets of film reviews, each rated by twenty people; a fifth is kept for testing. `Batches` shuffles, puts texts of
# like length together and pads each batch to its longest.

# %%
data = snippets()
tokenizer = WordPiece.load(minilm_folder())
# Every fourth and every second row: the file is sorted by rating, so its first rows are all of one kind.
texts, labels = data.train.texts[::4], label_ids(data.train.labels[::4], CLASS_NAMES)
test_texts, test_labels = data.test.texts[::2], label_ids(data.test.labels[::2], CLASS_NAMES)

train = Batches(tokenizer.encode(texts, max_length=48), labels, batch_size=32)
test = Batches(tokenizer.encode(test_texts, max_length=48), test_labels, batch_size=64, shuffle=False)
len(data.train), len(data.test), len(data.unlabelled), texts[0]

# %% [markdown]
# ## The teacher
#
# MiniLM in our own layers, with one new dense layer on top, fine-tuned for one epoch.

# %%
teacher = TextClassifier.from_pretrained(minilm_folder(), num_classes=2, name="teacher", dtype=fastest_policy())
start = with_policy(teacher, "float32")  # as it was before it learned: the student starts from it

teacher.compile(
    keras.optimizers.AdamW(5e-5),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
teacher_history = teacher.fit(
    train.dataset(), steps_per_epoch=train.steps_per_epoch, validation_data=test.dataset(), verbose=2, shuffle=False
)

# %% [markdown]
# ## The student
#
# The first three layers of MiniLM with a third of their feed-forward units, a token table of rank 128, and the word
# pieces that the domain uses. It sees the labels, the teacher's soft targets, and texts that have no label at all.

# %%
more_texts = texts + data.unlabelled.texts[::6]
all_ids = tokenizer.encode(more_texts, max_length=48)
all_labels = [*labels, *[-1] * (len(more_texts) - len(texts))]  # -1 = unlabelled
mixed = Batches(all_ids, all_labels, batch_size=32)

plan = StudentPlan(layers=(0, 1, 2), inner_dim=512, embedding_dim=128, min_count=1)
always = (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id)
student = cut_student(start, plan, all_ids, always=always, max_length=48, dtype=fastest_policy())

distiller = Distiller(
    student,
    teacher,
    terms=[
        LossTerm("true_labels", 0.2, true_labels),
        LossTerm("soft_targets", 0.8, soft_targets(temperature=2.0)),
    ],
)
distiller.compile(keras.optimizers.AdamW(3e-4), metrics=["accuracy"])
history = distiller.fit(
    mixed.dataset(epochs=2),
    epochs=2,
    steps_per_epoch=mixed.steps_per_epoch,
    validation_data=test.dataset(),
    verbose=2,
    shuffle=False,
)
teacher.count_params(), student.count_params()

# %% [markdown]
# ## Training curves

# %%
figure, (losses, scores) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
epochs = [1, 2]
losses.plot(epochs, history.history["soft_targets"], "o-", label="soft targets, training")
losses.plot(epochs, history.history["val_soft_targets"], "s--", label="soft targets, test")
losses.plot(epochs, history.history["true_labels"], "o-", label="true labels, training")
losses.set(xlabel="epoch", ylabel="mean of the term", xticks=epochs, title="Terms of the loss")
losses.legend()
scores.axhline(teacher_history.history["val_accuracy"][-1], color="grey", label="teacher")
scores.plot(epochs, history.history["val_accuracy"], "o-", label="student")
scores.set(xlabel="epoch", ylabel="accuracy on the test texts", xticks=epochs, title="Student against teacher")
scores.legend()
plt.show()

# %% [markdown]
# ## What the student looks at
#
# The graph of a `TextClassifier` names what it computes on the way, so attention costs no second model.

# %%
sentence = "a gorgeous, witty, seductive movie that is never dull"
ids = tokenizer.encode([sentence], max_length=48)
pieces = [tokenizer.vocab[index] for index in ids[0]]
attention = keras.Model(student.input, student.tap_tensors["encoder/2/attention"])(tokenizer.pad(ids))  # (1, H, T, T)
weights = keras.ops.convert_to_numpy(keras.ops.cast(attention[0], "float32")).mean(axis=0)

figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
image = axes.imshow(weights, cmap="Blues", vmin=0)
axes.set(title="Last layer of the student, mean over its heads", xlabel="attended to", ylabel="from")
axes.set_xticks(range(len(pieces)), pieces, rotation=60, ha="right")
axes.set_yticks(range(len(pieces)), pieces)
figure.colorbar(image, label="attention weight")
plt.show()

# %% [markdown]
# ## Out to a phone, with proof
#
# Each exporter reloads what it wrote, compares its logits with the Keras model's on real texts, and leaves no file
# where they disagree.

# %%
folder = Path(tempfile.mkdtemp())
common = {"tokenizer": tokenizer, "labels": CLASS_NAMES, "max_length": 48, "examples": test_texts[:200]}
phone = export.tflite(student, folder / "sentiment.tflite", quantize="dynamic", **common)
server = export.saved_model(student, folder / "sentiment", **common)
for proof in (phone, server):
    print(f"{proof.format}: {proof.bytes:,} bytes, largest logit error {proof.max_abs_logit_error:.1e}, ", end="")
    print(f"same answer on {proof.top1_agreement:.1%}, Flex operators: {proof.flex_ops or 'none'}")

# %%
predictor = serving.load(folder / "sentiment.tflite")  # LiteRT: neither Keras nor TensorFlow is needed for this
answer = predictor.predict([sentence, "a tedious mess that goes nowhere"])
answer.labels, answer.scores.round(3)
