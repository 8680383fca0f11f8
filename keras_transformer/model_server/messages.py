"""What the server says of its model in TensorFlow Serving's own protos, which REST gives as JSON."""

from typing import Any

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from keras_transformer.model_server.served_model import ServedModel

SIGNATURES = "signature_def"


def status(model: ServedModel) -> get_model_status_pb2.GetModelStatusResponse:
    """That the one version is there."""
    response = get_model_status_pb2.GetModelStatusResponse()
    version = response.model_version_status.add(version=model.version)
    version.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    version.status.error_message = ""  # the status is there, and says OK
    return response


def metadata(model: ServedModel) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name, response.model_spec.version.value = model.name, model.version
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in model.signatures.items():
        found.signature_def[name].CopyFrom(signature)
    response.metadata[SIGNATURES].Pack(found)
    return response


def status_json(model: ServedModel) -> dict[str, Any]:
    """`status` as REST gives it."""
    return _as_json(status(model))


def metadata_json(model: ServedModel) -> dict[str, Any]:
    """`metadata` as REST gives it."""
    response, found = metadata(model), get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURES].Unpack(found)
    return {"model_spec": _as_json(response.model_spec), "metadata": {SIGNATURES: _as_json(found)}}


def _as_json(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
