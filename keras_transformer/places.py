"""What is at a path: a run folder, a `.tflite` file or a SavedModel, and its task. Imports no TensorFlow."""

from pathlib import Path
from typing import NamedTuple

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.export.attachments import Attachments, read_from_file, read_from_folder
from keras_transformer.files import ModelFileError

BUNDLE, TFLITE, SAVED_MODEL = "keras", "tflite", "saved_model"
GRAPH = "saved_model.pb"
WHAT_TO_GIVE = "Give a folder written by `train` or `distill`, or a .tflite file or SavedModel written by `export`."


class Place(NamedTuple):
    """A model on disk."""

    path: Path  # of a SavedModel the folder of its version
    form: str  # BUNDLE, TFLITE or SAVED_MODEL
    task: str
    attached: Attachments | None  # what travels with an exported model; None of a run folder


def find(path: Path | str) -> Place:
    """Say what is at `path`, a run folder, a `.tflite` file, or a SavedModel (its version folder, or that above it).

    Raises:
        ModelFileError: if there is nothing, something else, or a damaged model. The message names it.
    """
    place = Path(path)
    if place.is_file():
        attached = read_from_file(place)
        return Place(place, TFLITE, attached.settings.task, attached)
    if (place / bundle.MANIFEST).is_file():
        return Place(place, BUNDLE, bundle.read(place).manifest.task, None)
    version = _newest_version(place)
    if version is not None:
        attached = read_from_folder(version)
        return Place(version, SAVED_MODEL, attached.settings.task, attached)
    if place.exists():
        raise ModelFileError(f"{path}: is neither a run folder nor a SavedModel. {WHAT_TO_GIVE}")
    raise ModelFileError(f"{path}: there is no such file or folder. {WHAT_TO_GIVE}")


def require_tflite(place: Place) -> None:
    """Raise UserError unless a model that is to run without XNNPACK runs on LiteRT, where XNNPACK is."""
    if place.form != TFLITE:
        raise UserError(
            f"--no-xnnpack with {place.path}: only a .tflite file runs with XNNPACK or without. Leave it out, or give "
            "the .tflite files alone."
        )


def _newest_version(folder: Path) -> Path | None:
    if (folder / GRAPH).is_file():
        return folder
    numbered = [graph.parent for graph in folder.glob(f"*/{GRAPH}") if graph.parent.name.isdecimal()]
    return max(numbered, key=lambda version: int(version.name), default=None)
