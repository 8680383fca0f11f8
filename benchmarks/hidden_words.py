"""A masked language model that `parity_matrix.py` trains on film snippets, and the questions that it is asked."""

import re
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_transformer import bundle
from keras_transformer.compression import count_pieces
from keras_transformer.data import assets
from keras_transformer.data.batching import Batches
from keras_transformer.data.masking import hide_tokens
from keras_transformer.data.text import Table
from keras_transformer.data.tokenizer import MASK, SPECIAL_PIECES, WordPiece
from keras_transformer.models import MINILM_L6, MaskedLM, TextClassifier, hidden_token
from keras_transformer.tasks import CLASSIFY
from keras_transformer.training.precision import fastest_policy
from keras_transformer.training.progress import ProgressBar
from keras_transformer.training.token_losses import MaskedCrossEntropy

MAX_LENGTH, BATCH_SIZE, RATE, SEED = 64, 64, 2e-4, 0
FEWEST = 5  # times that a piece must stand in the texts
WORD = re.compile(r"[a-z]+")


def questions(texts: Sequence[str], pieces: Sequence[str]) -> Table:
    """Each text with "[MASK]" for the middle one of its words that are pieces, and that word as the label."""
    known, asked, answers = set(pieces), [], []
    for text in texts:
        found = [match for match in WORD.finditer(text) if match[0] in known]
        if found:
            match = found[len(found) // 2]
            asked.append(text[: match.start()] + MASK + text[match.end() :])
            answers.append(match[0])
    return Table(asked, answers)


def start(texts: Sequence[str]) -> tuple[WordPiece, MaskedLM]:
    """MiniLM with those of its pieces that the texts have, and a head that has learned nothing."""
    folder = assets.minilm_folder()
    whole = WordPiece.load(folder)
    counts = count_pieces(whole.encode(texts, MAX_LENGTH), whole.vocab_size)
    kept = [place for place, piece in enumerate(whole.vocab) if piece in SPECIAL_PIECES or counts[place] >= FEWEST]
    tokenizer = WordPiece([whole.vocab[place] for place in kept], reads_mask=True)
    trained = TextClassifier.from_pretrained(folder, 2)
    weights = {weight.path: weight.numpy() for weight in trained.weights}
    weights["tokens/table"] = weights["tokens/table"][kept]
    weights["positions/table"] = weights["positions/table"][:MAX_LENGTH]
    model = MaskedLM(tokenizer.vocab_size, **MINILM_L6.arguments(), max_length=MAX_LENGTH, dtype=fastest_policy())
    for weight in model.weights:
        if weight.path in weights and weight.path.partition("/")[0] != "logits":
            weight.assign(weights[weight.path])
    return tokenizer, model


def train(texts: Sequence[str], out: Path, steps: int, *, quiet: bool) -> None:
    """Train for some steps (Devlin et al. 2019, section 3.1, task 1) and leave a run folder at `out`."""
    keras.utils.set_random_seed(SEED)
    tokenizer, model = start(texts)
    model.compile(keras.optimizers.AdamW(RATE), MaskedCrossEntropy(), jit_compile=False)
    batches = Batches(tokenizer.encode(texts, MAX_LENGTH), batch_size=BATCH_SIZE, seed=SEED)
    hide = hide_tokens(
        mask_id=tokenizer.asked_id,
        vocab_size=tokenizer.vocab_size,
        special_ids=[place for place, piece in enumerate(tokenizer.vocab) if piece in SPECIAL_PIECES],
        seed=SEED,
    )
    data = batches.dataset(0, epochs=-(-steps // batches.steps_per_epoch)).apply(hide)
    callbacks = [] if quiet else [ProgressBar("masked language model", steps)]
    model.fit(data, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
    bundle.save(
        out,
        model=hidden_token(model, tokenizer.asked_id),
        tokenizer=tokenizer,
        labels=tokenizer.vocab,
        task=CLASSIFY,
        max_length=MAX_LENGTH,
        metrics={},
        command=f"python benchmarks/parity_matrix.py, {steps} steps from MiniLM",
        examples=questions(texts[:: max(1, len(texts) // bundle.MOST_EXAMPLES)], tokenizer.vocab).texts,
    )
