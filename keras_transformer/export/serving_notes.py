"""What an operator of TensorFlow Serving needs beside a model: its settings, and a page of commands that fit it."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from keras_transformer import files
from keras_transformer.checks import UserError
from keras_transformer.export.example_requests import Encoding, Request, example_requests, repeated
from keras_transformer.export.served_name import served_name
from keras_transformer.export.serving_session import ServingSession
from keras_transformer.export.signature_names import DEFAULT
from keras_transformer.export.warm_up import write_warm_up
from keras_transformer.tasks import CLASSIFY

CONFIG, BATCHING, PAGE = "models.config", "batching_parameters.txt", "SERVING.md"
MARK = "Written by `keras-transformer export`"
GRPC_PORT, REST_PORT = 8500, 8501  # the defaults of TensorFlow Serving's image
MOST_TOKENS = 4096  # of a batch: what one pass holds in memory
MOST_ROWS, MOST_WRITTEN_ROWS = 32, 8
TIMEOUT_MICROS = {True: 2_000, False: 10_000}  # that a request waits for others: a small part of what its answer takes


def refuse_foreign_notes(folder: Path) -> None:
    """Raise UserError if a file in `folder` would be replaced that no export wrote."""
    for name in (CONFIG, BATCHING, PAGE):
        place = folder / name
        if place.exists() and not (place.is_file() and MARK in place.read_text("utf-8", "replace")[:200]):
            raise UserError(
                f"{place}: is there and wasn't written by an export, so it isn't replaced. "
                "Give another folder, or move it away."
            )


@dataclass(frozen=True)
class Notes:
    """What is said of one model.

    Args:
        folder: above its versions; its name is the model's.
        signatures: SignatureDef of each name.
        requests: an example for each signature.
        task: of the model.
        rows: the most that a batch should have, see `batch_rows`.
    """

    folder: Path
    signatures: dict[str, Any]
    requests: list[Request]
    task: str
    rows: int

    @classmethod
    def of(cls, folder: Path, session: ServingSession, tokenizer: Encoding, max_length: int, task: str) -> Self:
        """The notes of the model that is open."""
        signatures = session.signatures
        shapes = {name: _input_shapes(signatures[name]) for name in sorted(signatures, key=_default_first)}
        requests = example_requests(shapes, tokenizer, max_length)
        return cls(folder, signatures, requests, task, batch_rows(task, max_length))

    def write_warm_up(self, staging: Path, session: ServingSession) -> None:
        """Write requests for a single row, and of a classifier for a full batch, beside the SavedModel in `staging`."""
        batches = [repeated(one, self.rows) for one in self.requests] if self.task == CLASSIFY else []
        write_warm_up(staging, served_name(self.folder), [*self.requests, *batches], session)

    def write(self) -> None:
        """Write `models.config`, `batching_parameters.txt` and `SERVING.md` into the folder."""
        name = served_name(self.folder)
        for place, text in (
            (CONFIG, config_text(name)),
            (BATCHING, batching_text(name, self.rows, self.task)),
            (PAGE, page_text(name, self.signatures, self.requests)),
        ):
            with files.staged(self.folder / place) as staging:
                staging.write_text(text, encoding="utf-8")


def batch_rows(task: str, max_length: int) -> int:
    """How many rows a batch should have at most: a power of two whose tokens fit into one pass; less of what writes."""
    most = min(MOST_ROWS if task == CLASSIFY else MOST_WRITTEN_ROWS, max(1, MOST_TOKENS // max_length))
    return 1 << (most.bit_length() - 1)


def config_text(name: str) -> str:
    """The file for `--model_config_file`: where the model is inside of the container."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=f"/models/{name}", model_platform="tensorflow")
    return f"# {MARK}; the next export writes it again.\n{text_format.MessageToString(config)}"


def batching_text(name: str, rows: int, task: str) -> str:
    """The file for `--batching_parameters_file`. What it leaves out, such as threads, the server chooses itself."""
    sizes = [1 << power for power in range(rows.bit_length())]
    return "\n".join(
        [
            f"# {MARK} for {name}; the next export writes it again.",
            f"max_batch_size {{ value: {rows} }}",
            f"batch_timeout_micros {{ value: {TIMEOUT_MICROS[task == CLASSIFY]} }}",
            "max_enqueued_batches { value: 64 }",
            *(f"allowed_batch_sizes: {size}" for size in sizes),
            "# Only id 0 is padding, which a server doesn't know: rows of ids in one batch must be of one length.",
            "pad_variable_length_inputs: false",
            "",
        ]
    )


def page_text(name: str, signatures: dict[str, Any], requests: Sequence[Request]) -> str:
    """The page: how to start the server, what it answers, and how to ask it, by curl and by gRPC."""
    return "\n".join([_how_to_start(name), _what_it_answers(signatures), _how_to_ask(name, requests)])


def _how_to_start(name: str) -> str:
    return f"""<!-- {MARK}; the next export writes it again. -->
# Serving `{name}`

Start TensorFlow Serving in this folder, with Docker:

```sh
docker run --rm -p {GRPC_PORT}:{GRPC_PORT} -p {REST_PORT}:{REST_PORT} \\
  --mount type=bind,source="$PWD",target=/models/{name},readonly \\
  tensorflow/serving \\
  --model_config_file=/models/{name}/{CONFIG} \\
  --enable_batching=true --batching_parameters_file=/models/{name}/{BATCHING}
```

Or try clients without Docker, on a small server with the same paths, for development alone:

```sh
keras-transformer serve .
```

Before it takes requests, TensorFlow Serving sends the model those in `assets.extra/tf_serving_warmup_requests`.
"""


def _what_it_answers(signatures: dict[str, Any]) -> str:
    return f"""## What it answers

| signature | takes | gives |
|---|---|---|
{_table(signatures)}

N is the number of rows: texts, or rows of token ids. Every input has one value a row, so that the server may put the
requests of several clients into one batch. A text longer than the model's limit is cut there; one beyond 1 MiB, an id
out of range or too many ids are answered with INVALID_ARGUMENT.
"""


def _how_to_ask(name: str, requests: Sequence[Request]) -> str:
    url = f"http://localhost:{REST_PORT}/v1/models/{name}"
    curls = [f"curl -s {url}:predict -d {shlex.quote(json.dumps(_columnar(one)))}" for one in requests]
    first = requests[0]
    return f"""## With curl

Is it there, what does it take, and a request of each kind:

```sh
curl -s {url}
curl -s {url}/metadata
{chr(10).join(curls)}
```

Rows instead of columns; the answer is then `predictions`, one object a row:

```sh
curl -s {url}:predict -d {shlex.quote(json.dumps(_by_row(first)))}
```

## With gRPC, from Python

`pip install tensorflow-serving-api`, then:

```python
{_client(name, first)}```
"""


def _input_shapes(signature: Any) -> dict[str, list[int]]:
    inputs = sorted(signature.inputs.items())
    return {name: [axis.size for axis in tensor.tensor_shape.dim] for name, tensor in inputs}


def _default_first(name: str) -> tuple[bool, str]:
    return name != DEFAULT, name


def _columnar(request: Request) -> dict[str, Any]:
    return {"signature_name": request.signature, "inputs": request.inputs}


def _by_row(request: Request) -> dict[str, Any]:
    rows = [dict(zip(request.inputs, row, strict=True)) for row in zip(*request.inputs.values(), strict=True)]
    return {"signature_name": request.signature, "instances": rows}


def _table(signatures: dict[str, Any]) -> str:
    lines = []
    for name, signature in sorted(signatures.items()):
        lines.append(f"| `{name}` | {_tensors(signature.inputs)} | {_tensors(signature.outputs)} |")
    return "\n".join(lines)


def _tensors(group: Any) -> str:
    return ", ".join(f"`{name}` {_described(tensor)}" for name, tensor in sorted(group.items()))


def _described(tensor: Any) -> str:
    """Its type and shape, such as `float32 (N, 3)`; a length that is free is a letter."""
    letters = iter("NTUV")
    axes = [next(letters) if axis.size < 0 else str(axis.size) for axis in tensor.tensor_shape.dim]
    return f"{tf.as_dtype(tensor.dtype).name} ({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def _client(name: str, request: Request) -> str:
    fill = "\n".join(
        f'request.inputs["{key}"].CopyFrom(tf.make_tensor_proto({json.dumps(column)}))'
        for key, column in request.inputs.items()
    )
    return f"""import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

service = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel("localhost:{GRPC_PORT}"))
request = predict_pb2.PredictRequest()
request.model_spec.name, request.model_spec.signature_name = "{name}", "{request.signature}"
{fill}
outputs = service.Predict(request, timeout=60).outputs
for key in sorted(outputs):
    print(key, tf.make_ndarray(outputs[key]))
"""
