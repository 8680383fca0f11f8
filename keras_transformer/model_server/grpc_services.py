"""TensorFlow Serving's PredictionService and ModelService over its own protos."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message_factory
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
)

from keras_transformer.export.signature_names import DEFAULT
from keras_transformer.model_server.messages import SIGNATURES, metadata, status
from keras_transformer.model_server.refusal import INVALID, UNIMPLEMENTED, RefusedError
from keras_transformer.model_server.served_model import ServedModel

WORKERS = 16  # requests at a time; TensorFlow shares the cores among them
MOST_MESSAGE_BYTES = 64 << 20
MOST_VALUES = 1 << 24  # a tensor's: one value in the message may stand for many

Log = Callable[[str], None]
Answer = Callable[[Any], Any]
"""A request's proto -> its response's, or RefusedError."""


def grpc_server(model: ServedModel, log: Log) -> grpc.Server:
    """Return a server with both services; it has no port yet."""
    options = [
        ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared
        ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
        ("grpc.max_send_message_length", -1),
    ]
    services = [
        prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"],
        model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
    ]
    handlers = [_service(service, _answers(model), log) for service in services]
    return grpc.server(ThreadPoolExecutor(WORKERS), handlers=handlers, options=options)


def _answers(model: ServedModel) -> dict[str, Answer]:
    """What answers each method."""
    return {
        "Predict": lambda request: _predicted(model, request),
        "GetModelMetadata": lambda request: _metadata(model, request),
        "GetModelStatus": lambda request: _status(model, request),
        "Classify": _refuse_examples,
        "Regress": _refuse_examples,
        "MultiInference": _refuse_examples,
        "HandleReloadConfigRequest": _refuse_configuration,
    }


def _service(service: Any, answers: dict[str, Answer], log: Log) -> Any:
    """The handlers of every method that the service's descriptor has."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _with_status(method.name, answers[method.name], log),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _with_status(name: str, answer: Answer, log: Log) -> Callable[[Any, Any], Any]:
    """`answer` as gRPC calls it: a refusal becomes the status of the call."""

    def answered(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            response = answer(request)
        except RefusedError as refusal:
            log(f"gRPC: {name} {refusal.code}")
            context.abort(grpc.StatusCode[refusal.code], refusal.message)
        log(f"gRPC: {name} OK")
        return response

    return answered


def _predicted(model: ServedModel, request: Any) -> predict_pb2.PredictResponse:
    _check_model(model, request.model_spec)
    inputs = {name: _array(name, tensor) for name, tensor in request.inputs.items()}
    outputs = model.predict(request.model_spec.signature_name, inputs, request.output_filter)
    response = predict_pb2.PredictResponse()
    response.model_spec.name, response.model_spec.version.value = model.name, model.version
    response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT
    for name, value in outputs.items():
        dtype = tf.string if value.dtype == object else None
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value, dtype, value.shape))
    return response


def _metadata(model: ServedModel, request: Any) -> get_model_metadata_pb2.GetModelMetadataResponse:
    _check_model(model, request.model_spec)
    asked = list(request.metadata_field)
    if asked != [SIGNATURES]:
        raise RefusedError(INVALID, f"metadata_field {asked}: there is one. Use [{SIGNATURES!r}].")
    return metadata(model)


def _status(model: ServedModel, request: Any) -> get_model_status_pb2.GetModelStatusResponse:
    _check_model(model, request.model_spec)
    return status(model)


def _refuse_examples(request: Any) -> None:
    raise RefusedError(INVALID, "this call takes tf.Example, and these models take texts. Use Predict.")


def _refuse_configuration(request: Any) -> None:
    raise RefusedError(UNIMPLEMENTED, "this server keeps the model it was started with. Start it with the other.")


def _check_model(model: ServedModel, spec: Any) -> None:
    model.check_name(spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label)


def _array(name: str, tensor: Any) -> np.ndarray:
    sizes = [axis.size for axis in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or min(sizes, default=0) < 0 or np.prod(sizes, dtype=float) > MOST_VALUES:
        raise RefusedError(INVALID, f"input {name!r} has shape {sizes}: a tensor has from 0 to {MOST_VALUES} values.")
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
        raise RefusedError(INVALID, f"input {name!r} isn't a tensor of the type and shape it says: {error}.") from error
