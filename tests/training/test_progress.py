"""The progress line counts what is done, and gives the terminal back however `fit` ends."""

import os
import subprocess
import sys
import textwrap

import pytest

from keras_transformer.training.progress import ProgressBar

HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"

STOPPED = """
    import keras
    import numpy as np
    from keras_transformer import cli, serving
    from keras_transformer.training.progress import ProgressBar

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    def load(path):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        callbacks = [ProgressBar("training", 7), Stop()]
        model.fit(np.zeros((35, 3)), np.zeros((35, 2)), batch_size=5, callbacks=callbacks, verbose=0)

    serving.load_classifier = load
    cli.main(["predict", "model", "fine"])
"""


def said_to_a_terminal(script: str) -> tuple[int, bytes]:
    """Exit code of a script, and what it wrote to standard error, which is a terminal."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:  # Linux ends a terminal without writers with EIO
            pass
        os.close(ours)
    return process.returncode, said


def test_ctrl_c_while_training_stops_the_bar_and_shows_the_cursor_before_the_last_line():
    code, said = said_to_a_terminal(STOPPED)
    assert code == 130
    assert said.count(HIDE_CURSOR) == 1
    assert said.endswith(SHOW_CURSOR + b"keras-transformer: stopped by Ctrl-C\r\n")
    assert b"3/7" in said


@pytest.mark.parametrize(("done", "lines"), [(0, [2, 4, 6, 8]), (3, [5, 7, 9])])
def test_a_log_gets_a_line_every_quarter_counted_from_where_an_earlier_run_stopped(capsys, done, lines):
    bar = ProgressBar("training", 11)
    bar.done = done  # as `resumable_fit` sets it
    bar.on_train_begin()
    for batch in range(9 - done):
        bar.on_train_batch_end(batch, {"loss": 0.5})
    bar.on_train_end()
    expected = [f"training: {11 - done} steps", *(f"training: step {step} of 11, loss 0.500" for step in lines)]
    assert capsys.readouterr().err.splitlines() == expected
