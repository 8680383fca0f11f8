"""The child process that measures: a request comes in as JSON, and one JSON object goes out."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from keras_transformer.benchmark.this_machine import peak_memory_bytes, stay_on_cores
from keras_transformer.benchmark.timing import Latency, milliseconds
from keras_transformer.checks import UserError
from keras_transformer.generation.writer import GREEDY, Decoding
from keras_transformer.places import BUNDLE, TFLITE, Place, find
from keras_transformer.tasks import CLASSIFY

Answer = Callable[[list[str]], object]
"""One text in a list -> its label, or what is written for it."""


def main() -> None:
    """Read a request from standard input, measure, and write one JSON object to standard output."""
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not get between the JSON
    request = json.load(sys.stdin)
    stay_on_cores(request["threads"])  # before a thread pool counts them
    try:
        answer = _measured(**request)
    except UserError as error:
        answer = {"error": str(error)}
    json.dump(answer, answer_to)
    answer_to.close()


def _measured(
    paths: dict[str, str],
    texts: list[str],
    rounds: int,
    warmup: int,
    threads: int,
    xnnpack: bool,
    operators: bool,
    decoding: dict[str, Any],
) -> dict[str, Any]:
    places, how = {name: find(path) for name, path in paths.items()}, Decoding(**decoding)
    _require_one_task(places)
    _require_words(places, how)
    if operators:
        _require_tflite(places)
    answers: dict[str, Answer] = {}
    tokens: dict[str, list[int]] = {}  # of models that write: how many each text gets
    for name, place in places.items():
        if place.task == CLASSIFY:
            answers[name] = _classifier(paths[name], threads, xnnpack)
        else:
            answers[name], tokens[name] = _writer(paths[name], threads, xnnpack, texts, how)
    timed = milliseconds(answers, texts, rounds, warmup)
    memory = peak_memory_bytes()
    return {
        "latency": {name: Latency.of(each) for name, each in timed.items()},
        "token_latency": {name: Latency.of(_per_token(timed[name], counts)) for name, counts in tokens.items()},
        "facts": {name: _facts(place) for name, place in places.items()},
        "operators": _operators(places, xnnpack) if operators else {},
        "peak_memory_bytes": memory,
    }


def _classifier(path: str, threads: int, xnnpack: bool) -> Answer:
    from keras_transformer import serving

    return serving.load_classifier(path, threads, xnnpack=xnnpack).predict


def _writer(
    path: str, threads: int, xnnpack: bool, texts: Sequence[str], decoding: Decoding
) -> tuple[Answer, list[int]]:
    from keras_transformer import generation

    writer = generation.load(path, threads=threads, xnnpack=xnnpack)
    counts = [len(writer.new_token_ids([text], decoding)[0]) for text in texts]
    return partial(writer.write, decoding=decoding), counts


def _per_token(spent: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """Milliseconds a token of each call; the calls go through all texts again and again."""
    return [each / max(1, tokens[call % len(tokens)]) for call, each in enumerate(spent)]


def _facts(place: Place) -> dict[str, Any]:
    from keras_transformer import bundle, files

    if place.attached is None:
        run = bundle.read(place.path)
        return {"task": place.task, "format": BUNDLE, "parameters": run.manifest.parameters, "bytes": run.bytes}
    settings, size = place.attached.settings, files.size_on_disk(place.path)
    return {"task": place.task, "format": settings.format, "parameters": settings.parameters, "bytes": size}


def _operators(places: Mapping[str, Place], xnnpack: bool) -> dict[str, Any]:
    from keras_transformer.export.lite_operators import signature_operators

    return {name: signature_operators(place.path, xnnpack) for name, place in places.items() if place.form == TFLITE}


def _require_one_task(places: Mapping[str, Place]) -> None:
    (name, first), *others = places.items()
    for other, place in others:
        if place.task != first.task:
            raise UserError(
                f"{name} was trained for {first.task!r} and {other} for {place.task!r}: what they answer with can't be "
                "compared. Benchmark the models of one task at a time."
            )


def _require_words(places: Mapping[str, Place], decoding: Decoding) -> None:
    (name, first), *_ = places.items()
    if first.task == CLASSIFY and decoding != GREEDY:
        raise UserError(
            f"{name} finds labels and chooses no words. Leave out --temperature, --top-p, --top-k and --seed, or give "
            "what writes texts."
        )


def _require_tflite(places: Mapping[str, Place]) -> None:
    if not any(place.form == TFLITE for place in places.values()):
        raise UserError(
            f"--operators with {', '.join(places)}: only of a .tflite file the operators are listed. Give one, or "
            "leave the option out."
        )


if __name__ == "__main__":
    main()
