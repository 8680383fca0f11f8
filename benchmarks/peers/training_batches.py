"""Our batches in a file, so that another library trains on the very same ones in the same order."""

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save_file

from keras_transformer.data.epochs import Epochs
from keras_transformer.recipes.fitting import Schedule


def write_batches(batches: Epochs, steps: int, path: Path) -> None:
    """Write the first `steps` batches that `fit` would see: `0/labels`, `0/token_ids` or `0/source_ids`, ..."""
    found: dict[str, np.ndarray] = {}
    for step, (inputs, labels) in enumerate(islice(_all(batches), steps)):
        parts = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        found |= {f"{step}/{name}": np.ascontiguousarray(ids) for name, ids in {**parts, "labels": labels}.items()}
    save_file(found, path)


def how(schedule: Schedule, steps: int, *, label_smoothing: float, policy: str) -> dict[str, Any]:
    """What `peers.training_loop.train` takes, so that it does what `schedule` does with ours."""
    rate = keras.optimizers.schedules.deserialize(schedule.optimizer(steps).get_config()["learning_rate"])
    return {
        "rates": [float(rate(step)) for step in range(steps)],
        "weight_decay": schedule.weight_decay,
        "beta_2": schedule.beta_2,
        "clip_norm": schedule.clip_norm,
        "label_smoothing": label_smoothing,
        "bfloat16": policy == "mixed_bfloat16",
    }


def _all(batches: Epochs) -> Iterator[Any]:
    for epoch in count():
        yield from batches.batches(epoch)
