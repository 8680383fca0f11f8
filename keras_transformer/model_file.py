"""Open a `.keras` file that somebody else may have made: checked first, then loaded by Keras in safe mode."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_transformer.files import ModelFileError

if TYPE_CHECKING:
    import h5py
    import keras

CONFIG_BYTES = 16 << 20
"""The longest `config.json` that is read. Ours hold some thousand bytes, and kept vocabulary ids at most."""

MEMBERS = ("metadata.json", "config.json", "model.weights.h5")

UNREADABLE = (  # all that Keras, h5py, zipfile and json were seen to raise for a damaged or crafted file
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def load_model(path: Path | str) -> "keras.Model":
    """Load a `.keras` file made of Keras' layers and ours; nothing in it can run code or reach another file.

    Before Keras sees it, the archive must hold just its three members, stored without compression, and
    weights that fit in the bytes of the file: so neither a bomb nor a link to another file gets further.

    Raises:
        ModelFileError: if the file is missing, cut short, changed, too large, needs code of its own (a Lambda
            or an unknown class), or holds a weight that is NaN or infinite. The message names the file.
    """
    check_archive(path)
    import keras

    from keras_transformer.models import CausalLM, Seq2Seq, TextClassifier  # brings our layers with it

    ours = {model.__name__: model for model in (CausalLM, Seq2Seq, TextClassifier)}
    try:
        model = keras.saving.load_model(path, custom_objects=ours, compile=False, safe_mode=True)
    except UNREADABLE as error:
        raise ModelFileError(
            f"{path}: Keras can't load it ({_first_sentence(error)}). "
            "Give a file that keras_transformer wrote, with layers of Keras and keras_transformer alone."
        ) from error
    _refuse_wild_weights(model, path)
    return model


def check_archive(path: Path | str) -> None:
    """Raise ModelFileError unless `path` is a `.keras` archive with sound members; needs no Keras."""
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: there is no such file. Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            _check_config(archive, path)
            _check_weights(archive, path)
    except UNREADABLE as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path}: isn't a whole .keras file ({_first_sentence(error)}). "
            "Take it from a backup, or write it again with the command that made it."
        ) from error


def _check_members(archive: zipfile.ZipFile, path: Path | str) -> None:
    names = sorted(archive.namelist())
    if names != sorted(MEMBERS):
        raise ModelFileError(
            f"{path}: holds {names[:5]}, and a .keras file of ours holds {sorted(MEMBERS)}. "
            "Save the model with `model.save` of Keras 3."
        )
    packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ModelFileError(
            f"{path}: {packed[0]} is compressed, and Keras stores it plain. Save the model with `model.save`."
        )


def _check_config(archive: zipfile.ZipFile, path: Path | str) -> None:
    length = archive.getinfo("config.json").file_size
    if length > CONFIG_BYTES:
        raise ModelFileError(
            f"{path}: its config.json has {length} bytes, and the limit is {CONFIG_BYTES}. "
            "Give a file that keras_transformer wrote."
        )
    for name in ("metadata.json", "config.json"):
        json.loads(archive.read(name))


def _check_weights(archive: zipfile.ZipFile, path: Path | str) -> None:
    """Weights must lie in the file itself: links and virtual ones reach outside, bombs fill the memory."""
    import h5py

    content = archive.read("model.weights.h5")  # whole: a member of an archive starts over at each step back
    stored = len(content)
    with h5py.File(io.BytesIO(content), "r") as weights:
        claimed = sum(_bytes_of_group(group, path) for group in _groups(weights))
    if claimed > stored:
        raise ModelFileError(
            f"{path}: its weights claim {claimed} bytes, {stored} are there. Give a file that Keras saved."
        )


def _groups(root: "h5py.Group") -> Iterator["h5py.Group"]:
    """Yield `root` and each group below it once, also where hard links make a ring."""
    import h5py

    seen, waiting = set(), [root]
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address not in seen:
            seen.add(address)
            yield group  # its links are checked before the next line follows them
            waiting += [item for item in group.values() if isinstance(item, h5py.Group)]


def _bytes_of_group(group: "h5py.Group", path: Path | str) -> int:
    import h5py

    claimed = 0
    for name in group:
        outside = not isinstance(group.get(name, getlink=True), h5py.HardLink)
        item = None if outside else group[name]
        if isinstance(item, h5py.Dataset):
            outside = item.is_virtual or bool(item.external)
            claimed += item.nbytes
        if outside:
            raise ModelFileError(f"{path}: its weight {name!r} lies outside of the file. Give a file that Keras saved.")
    return claimed


def _refuse_wild_weights(model: "keras.Model", path: Path | str) -> None:
    import keras
    import numpy as np

    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.dtype.kind not in "biu" and not np.isfinite(values.astype(np.float32)).all():
            raise ModelFileError(
                f"{path}: its weight {weight.path!r} holds NaN or infinity, so every answer would be NaN. "
                "Train again with a smaller learning rate, or take an older file."
            )


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
