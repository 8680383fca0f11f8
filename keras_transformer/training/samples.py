"""What a model says while it trains: a callback that shows a few outputs."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_transformer.checks import positive_integer


class SampleOutputs(keras.callbacks.Callback):
    """Prints what `generate` makes of `texts` on standard error, after each `every_epochs` epochs.

    Args:
        generate: texts -> texts, as many; called with the model as it is at that moment.
        texts: the inputs.
        every_epochs: 1 = after each epoch. The last epoch is shown in any case.

    Raises:
        ValueError: if there is no text, or `every_epochs` isn't a whole number of at least 1.
    """

    def __init__(
        self, generate: Callable[[list[str]], Sequence[str]], texts: Sequence[str], every_epochs: int = 1
    ) -> None:
        super().__init__()
        positive_integer("every_epochs", every_epochs)
        if isinstance(texts, str) or not len(texts):
            raise ValueError(
                f"texts={texts!r} isn't a list with a text in it. Give for example texts=['a few', 'texts']."
            )
        self.generate, self.texts, self.every_epochs = generate, list(texts), every_epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the outputs if it is time.

        Raises:
            ValueError: if `generate` gave more or fewer texts than it got.
        """
        epochs = (self.params or {}).get("epochs")
        if (epoch + 1) % self.every_epochs and epoch + 1 != epochs:
            return
        outputs = self.generate(list(self.texts))
        if len(outputs) != len(self.texts):
            raise ValueError(
                f"generate gave {len(outputs)} texts for {len(self.texts)}: it must give one for each, in their order."
            )
        lines = [f"  {text} -> {output}" for text, output in zip(self.texts, outputs, strict=True)]
        print(f"Epoch {epoch + 1}:", *lines, sep="\n", file=sys.stderr, flush=True)
