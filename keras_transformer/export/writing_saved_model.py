"""A SavedModel that writes texts: raw strings in, raw strings out, wherever core TensorFlow runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer import files
from keras_transformer.export.attachments import parts_of_folder, write_to_folder
from keras_transformer.export.numpy_decoding import up_to_end
from keras_transformer.export.parity import ParityError
from keras_transformer.export.saved_model import FIX, FORMAT, TOLERANCE, VERSION, refuse_foreign, refuse_xla
from keras_transformer.export.writing_parity import (
    Logits,
    WritingReport,
    compare_writing,
    differing_texts,
    require_token_logits,
)

if TYPE_CHECKING:
    import keras

    from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
    from keras_transformer.export.serving_graph import ServingSession
    from keras_transformer.export.writing import PreparedWriting

BATCH_SIZE = 32


def saved_model_writer(
    model: "keras.Model",
    folder: Path | str,
    *,
    tokenizer: "ReversibleTokenizer",
    task: str,
    max_length: int,
    examples: Sequence[str],
    tolerance: float = TOLERANCE,
) -> WritingReport:
    """Write a model that writes texts as `FOLDER/1/` for TensorFlow Serving, and prove that it writes the same.

    Three signatures share one set of weights, each stored once. `serving_default` takes `text` (N,) string and gives
    `output` (N,) string, the translation, or the text with its continuation, and `log_prob` (N,) float32, the sum over
    the new tokens. `generate_tokens` takes `token_ids` (N, T) int32, 0 = padding, and gives the new `token_ids` (N, M)
    and `log_prob`. `tokens` gives the whole model's `logits` (N, T, V) for its ids: `source_ids` and `target_ids` of a
    translator, `token_ids` of a language model. Decoding is greedy, with at most `max_length` tokens of a translation
    and half as many of a continuation. Tokenizer, cache, loop and detokenizer are in the graph, of core TensorFlow
    operators, none of which needs XLA.

    Args:
        model: a `Seq2Seq` or `CausalLM`; one in mixed precision is written, and compared, in float32.
        folder: the model's name for Serving, for example `out/german`; version `1/` is made or replaced in it.
        tokenizer: the one that the model was trained with; it goes into the graph.
        task: "translate" or "language-model".
        max_length: ids of a source, and tokens of a translation, or of a text and what is added to it.
        examples: texts with which the reloaded model is compared, the first 64.
        tolerance: largest difference in a logit that is let through, as a share of the largest logit, or of 1.

    Raises:
        ParityError: if the reloaded model differs by more than `tolerance`, or writes other texts. Nothing is written.
        UserError: if `folder/1` holds something else, can't be written, the tokenizer can't run in the graph, or the
            model needs XLA.
        ValueError: if model, tokenizer, task, `max_length` and `examples` don't belong together.
    """
    from keras_transformer.data.in_graph import detokenizer_in_graph
    from keras_transformer.export.serving_graph import ServingSession
    from keras_transformer.export.writing import prepare_writing, whole_logits
    from keras_transformer.export.writing_signatures import write_for_servers

    target = Path(folder) / VERSION
    refuse_foreign(target)
    detokenizer_in_graph(tokenizer)  # says so at once if it can't run there
    prepared = prepare_writing(model, tokenizer, task, max_length, examples)
    with files.staged(target) as staging:
        write_for_servers(prepared, staging)
        with ServingSession(staging) as session:
            refuse_xla(session.operators, target)

            reference = whole_logits(prepared.writing)
            result = compare_writing(reference, _served_logits(session, prepared), prepared.pairs)
            require_token_logits(result, tolerance, target, FIX)
            _require_texts(session, prepared, reference, result.allowed(tolerance), target)
        parts = parts_of_folder(staging)
        write_to_folder(staging, prepared.attachments(FORMAT, parts))
    return WritingReport.of(target, FORMAT, result, session.operators, same_texts=result.same_texts, texts=result.texts)


def _served_logits(session: "ServingSession", prepared: "PreparedWriting") -> Logits:
    def logits(prompt: Sequence[int], written: Sequence[int]) -> np.ndarray:
        inputs = prepared.writing.whole(prompt, written)
        return session.run("tokens", **inputs)["logits"][0, -len(written) :]

    return logits


def _require_texts(
    session: "ServingSession", prepared: "PreparedWriting", reference: Logits, limit: float, target: Path
) -> None:
    """The loop in the graph must choose Keras' tokens, and raw strings must end in the text of the same tokens."""
    found = _served_ids(session, prepared)
    begun = [ids[: len(written)] for ids, written in zip(found, prepared.written, strict=True)]
    for place in differing_texts(reference, prepared.pairs, begun, limit):
        raise ParityError(
            f"{target}: would write other tokens than its Keras model for text {place}, {begun[place][:9]} and not "
            f"{prepared.written[place][:9]}. Nothing was written. Report the text."
        )
    outputs = _served_texts(session, prepared)
    for place, (text, ids) in enumerate(zip(prepared.texts, found, strict=True)):
        expected = prepared.writing.output(text, ids)
        if outputs[place] != expected:
            raise ParityError(
                f"{target}: would answer text {place} with {outputs[place][:60]!r} and not {expected[:60]!r}: the "
                "tokenizer in the graph reads or writes it differently. Nothing was written. Report the text."
            )


def _served_ids(session: "ServingSession", prepared: "PreparedWriting") -> list[list[int]]:
    found, tokenizer = [], prepared.writing.tokenizer
    for start in range(0, len(prepared.prompts), BATCH_SIZE):
        outputs = session.run("generate_tokens", token_ids=tokenizer.pad(prepared.prompts[start : start + BATCH_SIZE]))
        found += [up_to_end(ids, tokenizer.end_id) for ids in outputs["token_ids"]]
    return found


def _served_texts(session: "ServingSession", prepared: "PreparedWriting") -> list[str]:
    from keras_transformer.export.serving_graph import as_bytes

    found = []
    for start in range(0, len(prepared.texts), BATCH_SIZE):
        outputs = session.run("serving_default", text=as_bytes(prepared.texts[start : start + BATCH_SIZE]))
        found += [output.decode() for output in outputs["output"]]
    return found
