"""A first load of a `.tflite` file in a process of its own: what crashes LiteRT takes its whole process with it.

The digests in a file tell each change that came by chance, before LiteRT sees it. What is left are files that were
made wrong, and machines that LiteRT can't run on. Imports neither TensorFlow nor Keras.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from keras_transformer.export.attachments import read_from_file
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.export.lite_steps import LiteSteps
from keras_transformer.files import ModelFileError, ended_by_signal
from keras_transformer.tasks import CLASSIFY

SECONDS = 60  # for a load and an answer to four tokens
TOKENS = (1, 1, 1, 1)  # an id that every vocabulary has
# The child finds its modules where this process does, and nowhere else: not in the folder that it is started in.
CODE = (
    "import sys; sys.path[:] = sys.argv[2:]; from keras_transformer.export import lite_trial; "
    "lite_trial.answer_once(sys.argv[1])"
)


@contextmanager
def tried(path: Path | str) -> Iterator[None]:
    """Let a child process load a `.tflite` file and answer once, while the body does something else.

    A folder is left alone: its graph is TensorFlow's, which checks it. An error that LiteRT reports is none here: who
    loads the file next gets it too.

    Raises:
        ModelFileError: if the child was ended by a signal, which is named, or gave no answer in a minute.
        RuntimeError: if it fails otherwise.
    """
    if not Path(path).is_file():
        yield
        return
    child = subprocess.Popen(
        [sys.executable, "-c", CODE, str(path), *sys.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield
        said = child.communicate(timeout=SECONDS)[1]
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(
            f"{path}: LiteRT gave no answer to {len(TOKENS)} tokens in {SECONDS} seconds. Write it again with "
            "`keras-transformer export`."
        ) from error
    finally:
        child.kill()
        child.communicate()
    if child.returncode < 0:
        raise ended_by_signal(str(path), child.returncode)
    if child.returncode:
        raise RuntimeError(f"the process that tried {path} failed: {' '.join(said.split())[-500:]}")


def answer_once(path: Path | str, token_ids: Sequence[int] = TOKENS) -> None:
    """Load a `.tflite` file and let it answer; an error that LiteRT or we report counts as an answer."""
    import numpy as np

    place = Path(path)
    try:
        if read_from_file(place).settings.task == CLASSIFY:
            runner = LiteRunner(place, threads=1)
            runner(np.resize(np.array([token_ids], np.int32), (1, runner.fixed_length or len(token_ids))))
        else:
            steps = LiteSteps(place, threads=1)
            steps.step(token_ids[-1], steps.begin(token_ids[:-1]).state)
    except (RuntimeError, ValueError):  # a ModelFileError is a ValueError
        return
