"""A big Transformer made small with Keras 3, and shipped to TFLite and TensorFlow Serving with proof.

Importing this package imports neither TensorFlow nor Keras: take what you need from its parts, for example
`from keras_transformer.models import TextClassifier` or `from keras_transformer import serving`.
"""

from keras_transformer.version import __version__

__all__ = ["__version__"]
