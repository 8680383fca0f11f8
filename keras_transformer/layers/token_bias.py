"""One learned number for each token of the vocabulary, added to its logit."""

from typing import Any

import keras

from keras_transformer.layers.masks import Tensor


@keras.saving.register_keras_serializable("keras_transformer")
class TokenBias(keras.layers.Layer):
    """x + b with b (V,): the output bias that BERT has and tied logits lack (Devlin et al. 2019, appendix A)."""

    def build(self, input_shape: tuple) -> None:
        """Make the bias, zeros at first."""
        self.bias = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="bias")

    def call(self, logits: Tensor) -> Tensor:
        """(..., V) -> the same shape."""
        return logits + self.bias

    def get_config(self) -> dict[str, Any]:
        """Return name, dtype and trainable; Keras can't guess them when `dtype` is a policy object."""
        return super().get_config()
