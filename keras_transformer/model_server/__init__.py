"""A server for development with TensorFlow Serving's REST paths and gRPC services. Production takes the real one.

A client that works with it works unchanged with TensorFlow Serving. It serves one model, doesn't join requests into
batches, doesn't watch the folder for new versions, and knows neither TLS nor who is asking.
"""

from keras_transformer.model_server.refusal import RefusedError
from keras_transformer.model_server.served_model import ServedModel
from keras_transformer.model_server.server import ModelServer

__all__ = ["ModelServer", "RefusedError", "ServedModel"]
