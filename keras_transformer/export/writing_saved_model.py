"""A SavedModel that writes texts: raw strings in, raw strings out, wherever core TensorFlow runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer import files
from keras_transformer.checks import positive_integer
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
    from keras_transformer.export.serving_session import ServingSession
    from keras_transformer.export.writing import PreparedWriting

BATCH_SIZE = 32
BEAM_WIDTH = 4
SEARCHED_TEXTS = 4  # a search has a row for each of its beginnings
SEARCH_TOLERANCE = 1e-3  # of a score, a sum over many tokens


def saved_model_writer(
    model: "keras.Model",
    folder: Path | str,
    *,
    tokenizer: "ReversibleTokenizer",
    task: str,
    max_length: int,
    examples: Sequence[str],
    tolerance: float = TOLERANCE,
    beam_width: int = BEAM_WIDTH,
) -> WritingReport:
    """Write a model that writes texts as `FOLDER/1/` for TensorFlow Serving, and prove that it writes the same.

    Five signatures share one set of weights, each stored once. `serving_default` takes `text` (N,) string and gives
    `output` (N,) string, the translation, or the text with its continuation, and `log_prob` (N,) float32, the sum over
    the new tokens; it writes at most `max_length` tokens of a translation and half as many of a continuation.
    `generate` also takes `max_tokens` (N,) int32, how many each text may get, and gives `score` (N,) too, log_prob /
    ((5 + L) / 6)^0.6 of L tokens. Both are greedy. `search` takes the same, does a beam search, and gives `output`,
    `log_prob` and `score` of the `beam_width` best texts, (N, W) each, best first. `generate_tokens` takes `token_ids`
    (N, T) int32, 0 = padding, and gives the new `token_ids` (N, M) and `log_prob`. `tokens` gives the whole model's
    `logits` (N, T, V) for its ids: `source_ids` and `target_ids` of a translator, `token_ids` of a language model. What
    is out of range, or a text beyond 1 MiB, is answered with INVALID_ARGUMENT. Tokenizer, cache, loop and detokenizer
    are in the graph, of core TensorFlow operators, none of which needs XLA. Beside it is what `saved_model` writes.

    Args:
        model: a `Seq2Seq` or `CausalLM`; one in mixed precision is written, and compared, in float32.
        folder: the model's name for Serving, for example `out/german`; version `1/` is made or replaced in it.
        tokenizer: the one that the model was trained with; it goes into the graph.
        task: "translate" or "language-model".
        max_length: ids of a source, and tokens of a translation, or of a text and what is added to it.
        examples: texts with which the reloaded model is compared, the first 64.
        tolerance: largest difference in a logit that is let through, as a share of the largest logit, or of 1.
        beam_width: beginnings that `search` keeps.

    Raises:
        ParityError: if the reloaded model differs by more than `tolerance`, or writes other texts. Nothing is written.
        UserError: if `folder/1` or a file beside it is something else, can't be written, the tokenizer can't run in the
            graph, `max_length` is 1, or the model needs XLA.
        ValueError: if model, tokenizer, task, `max_length` and `examples` don't belong together.
    """
    from keras_transformer.data.in_graph import detokenizer_in_graph
    from keras_transformer.export.served_writing import write_for_servers
    from keras_transformer.export.serving_notes import Notes, refuse_foreign_notes
    from keras_transformer.export.serving_session import ServingSession
    from keras_transformer.export.writing import prepare_writing, whole_logits

    positive_integer("beam_width", beam_width)
    target = Path(folder) / VERSION
    refuse_foreign(target)
    detokenizer_in_graph(tokenizer)  # says so at once if it can't run there
    refuse_foreign_notes(Path(folder))
    prepared = prepare_writing(model, tokenizer, task, max_length, examples)
    with files.staged(target) as staging:
        write_for_servers(prepared, staging, beam_width)
        with ServingSession(staging) as session:
            refuse_xla(session.operators, target)
            reference = whole_logits(prepared.writing)
            result = compare_writing(reference, _served_logits(session, prepared), prepared.pairs)
            require_token_logits(result, tolerance, target, FIX)
            found = _require_texts(session, prepared, reference, result.allowed(tolerance), target)
            _require_limits(session, prepared, found, target)
            _require_search(session, prepared, beam_width, target)
            notes = Notes.of(Path(folder), session, tokenizer, max_length, task)
            notes.write_warm_up(staging, session)
        parts = parts_of_folder(staging)
        write_to_folder(staging, prepared.attachments(FORMAT, parts))
    notes.write()
    return WritingReport.of(target, FORMAT, result, session.operators, same_texts=result.same_texts, texts=result.texts)


def _served_logits(session: "ServingSession", prepared: "PreparedWriting") -> Logits:
    def logits(prompt: Sequence[int], written: Sequence[int]) -> np.ndarray:
        inputs = prepared.writing.whole(prompt, written)
        return session.run("tokens", **inputs)["logits"][0, -len(written) :]

    return logits


def _require_texts(
    session: "ServingSession", prepared: "PreparedWriting", reference: Logits, limit: float, target: Path
) -> list[list[int]]:
    """The loop in the graph must choose Keras' tokens, and raw strings must end in the text of the same tokens.

    Returns:
        The ids that the graph chose for each text.
    """
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
    return found


def _require_limits(
    session: "ServingSession", prepared: "PreparedWriting", found: list[list[int]], target: Path
) -> None:
    """With limits of their own, 1, 2, 3 and so on, the texts of a batch must end where each is told to."""
    from keras_transformer.export.serving_session import as_bytes

    writing = prepared.writing
    # A longer prompt is cut at another place if it is to leave room for fewer tokens.
    places = [place for place, ids in enumerate(prepared.prompts) if len(ids) < writing.longest_prompt][:BATCH_SIZE]
    limits = [min(order, writing.most) for order in range(1, len(places) + 1)]
    texts = [prepared.texts[place] for place in places]
    outputs = session.run("generate", text=as_bytes(texts), max_tokens=np.array(limits, np.int32))["output"]
    for place, limit, text, output in zip(places, limits, texts, outputs, strict=True):
        expected = writing.output(text, found[place][:limit])
        if output.decode() != expected:
            raise ParityError(
                f"{target}: would answer text {place} with {output.decode()[:60]!r} and not {expected[:60]!r} when "
                f"asked for {limit} tokens. Nothing was written. Report the text."
            )


def _require_search(session: "ServingSession", prepared: "PreparedWriting", width: int, target: Path) -> None:
    """A search in the graph must find texts as good as Keras' own."""
    from keras_transformer.export.serving_session import as_bytes
    from keras_transformer.export.writing import searched_scores

    texts = prepared.texts[:SEARCHED_TEXTS]
    limits = np.full(len(texts), prepared.writing.most, np.int32)
    found = session.run("search", text=as_bytes(texts), max_tokens=limits)["score"][:, 0]
    for place, (score, expected) in enumerate(
        zip(found, searched_scores(prepared.writing, prepared.prompts[:SEARCHED_TEXTS], width), strict=True)
    ):
        if not abs(score - expected) <= SEARCH_TOLERANCE * max(1.0, abs(expected)):
            raise ParityError(
                f"{target}: a search would find a text of score {score:.4f} for text {place}, and its Keras model one "
                f"of {expected:.4f}. Nothing was written. Report the text."
            )


def _served_ids(session: "ServingSession", prepared: "PreparedWriting") -> list[list[int]]:
    found, tokenizer = [], prepared.writing.tokenizer
    for start in range(0, len(prepared.prompts), BATCH_SIZE):
        outputs = session.run("generate_tokens", token_ids=tokenizer.pad(prepared.prompts[start : start + BATCH_SIZE]))
        found += [up_to_end(ids, tokenizer.end_id) for ids in outputs["token_ids"]]
    return found


def _served_texts(session: "ServingSession", prepared: "PreparedWriting") -> list[str]:
    from keras_transformer.export.serving_session import as_bytes

    found = []
    for start in range(0, len(prepared.texts), BATCH_SIZE):
        outputs = session.run("serving_default", text=as_bytes(prepared.texts[start : start + BATCH_SIZE]))
        found += [output.decode() for output in outputs["output"]]
    return found
