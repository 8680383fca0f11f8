"""The requests that TensorFlow Serving sends to a model before it takes those of others, so that none waits longer."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_transformer.export.attachments import FOLDER
from keras_transformer.export.example_requests import Request
from keras_transformer.export.serving_session import ServingSession

WARM_UP = "tf_serving_warmup_requests"


def write_warm_up(folder: Path, name: str, requests: Iterable[Request], session: ServingSession) -> None:
    """Write the requests as `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog.

    Args:
        folder: of the SavedModel.
        name: of the model, as clients call it.
        requests: what is to be asked; each is answered here first.
        session: the SavedModel, opened.

    Raises:
        tf.errors.OpError: if the model doesn't answer one of them.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(place / WARM_UP)) as writer:
        for request in requests:
            predict = predict_request(name, request, session)
            session.run(request.signature, **{key: tf.make_ndarray(one) for key, one in predict.inputs.items()})
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=predict))
            writer.write(log.SerializeToString())


def predict_request(name: str, request: Request, session: ServingSession) -> predict_pb2.PredictRequest:
    """The request as Serving takes it, of the types that the signature asks for."""
    predict = predict_pb2.PredictRequest()
    predict.model_spec.name, predict.model_spec.signature_name = name, request.signature
    for key, column in request.inputs.items():
        dtype = tf.as_dtype(session.signatures[request.signature].inputs[key].dtype)
        values = np.array(column, object if dtype == tf.string else dtype.as_numpy_dtype)
        predict.inputs[key].CopyFrom(tf.make_tensor_proto(values, dtype))
    return predict
