"""Models on top of the layers: Functional inside, token ids in (0 = padding), float32 logits out."""

from keras_transformer.models.sizes import BASE, MINILM_L6, SMALL, TINY, TransformerSize
from keras_transformer.models.text_classifier import TextClassifier

__all__ = ["BASE", "MINILM_L6", "SMALL", "TINY", "TextClassifier", "TransformerSize"]
