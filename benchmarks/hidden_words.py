"""A masked language model that `parity_matrix.py` trains on film snippets, and the questions that it is asked."""

import re
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_transformer import bundle
from keras_transformer.data.batching import Batches
from keras_transformer.data.masking import hide_tokens
from keras_transformer.data.text import Table
from keras_transformer.data.tokenizer import MASK, SPECIAL_PIECES, WordPiece
from keras_transformer.models import TINY, MaskedLM, hidden_token
from keras_transformer.tasks import CLASSIFY
from keras_transformer.training.progress import ProgressBar
from keras_transformer.training.token_losses import MaskedCrossEntropy

VOCAB_SIZE, MAX_LENGTH, BATCH_SIZE, RATE, SEED = 4_000, 64, 64, 1e-3, 0
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


def train(texts: Sequence[str], out: Path, steps: int, *, quiet: bool) -> None:
    """Train for some steps (Devlin et al. 2019, section 3.1, task 1) and leave a run folder at `out`."""
    keras.utils.set_random_seed(SEED)
    tokenizer = WordPiece(WordPiece.learn(texts, VOCAB_SIZE).vocab, reads_mask=True)
    model = MaskedLM(tokenizer.vocab_size, **TINY.arguments(), max_length=MAX_LENGTH)
    model.compile(keras.optimizers.AdamW(RATE), MaskedCrossEntropy(), jit_compile=False)
    batches = Batches(tokenizer.encode(texts, MAX_LENGTH), batch_size=BATCH_SIZE, seed=SEED)
    hide = hide_tokens(
        mask_id=tokenizer.asked_id,
        vocab_size=tokenizer.vocab_size,
        special_ids=range(len(SPECIAL_PIECES)),
        seed=SEED,
    )
    epochs = -(-steps // batches.steps_per_epoch)
    data = batches.dataset(0, epochs=epochs).apply(hide)
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
        command=f"python benchmarks/parity_matrix.py, {steps} steps",
        examples=questions(texts[:: max(1, len(texts) // bundle.MOST_EXAMPLES)], tokenizer.vocab).texts,
    )
