"""TensorFlow Serving's gRPC protocol, by its own definitions: Predict, GetModelMetadata and GetModelStatus."""

import asyncio
from concurrent.futures import Executor
from typing import Any, NoReturn

import grpc
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfpg.serving import model
from tfpg.serving.model import Arrays, Model, Refusal, Shelf
from tfpg.serving.rest import NAME, Limits

CODES = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "missing": grpc.StatusCode.NOT_FOUND,
    "large": grpc.StatusCode.INVALID_ARGUMENT,
    "late": grpc.StatusCode.DEADLINE_EXCEEDED,
}


def _shape(name: str, proto: Any) -> tuple[Any, tuple[int, ...]]:
    """Type and shape that a tensor of a message says it has. Raises: Refusal if it says nothing of the kind."""
    try:
        return tf.as_dtype(proto.dtype).as_numpy_dtype, tuple(int(dim.size) for dim in proto.tensor_shape.dim)
    except TypeError:
        raise Refusal(f"{name} is no tensor") from None


def _array(name: str, proto: Any) -> Any:
    """A tensor of a message, whose type and shape were checked: a single number may stand for as many as it says. Raises: Refusal."""
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError, OverflowError):
        raise Refusal(f"{name} is no tensor") from None


def _named(shelf: Shelf, spec: Any) -> Model:
    """The version that a message names. Raises: Refusal if it is not served."""
    loaded = shelf.model
    if spec.name != NAME:
        raise Refusal(f"model {spec.name!r} is unknown: {NAME} is served", "missing")
    if spec.WhichOneof("version_choice") == "version_label":
        raise Refusal(f"version label {spec.version_label!r} is unknown: version {loaded.version} is served", "missing")
    if spec.HasField("version") and spec.version.value != loaded.version:
        raise Refusal(f"version {spec.version.value} is not served: {loaded.version} is", "missing")
    return loaded


async def _abort(context: Any, refusal: Refusal) -> NoReturn:
    await context.abort(CODES[refusal.kind], str(refusal))
    raise refusal


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, shelf: Shelf, limits: Limits, workers: Executor) -> None:
        self.shelf, self.limits, self.workers = shelf, limits, workers

    def _predict(self, request: Any) -> tuple[Model, str, Arrays]:
        loaded, signature = _named(self.shelf, request.model_spec), request.model_spec.signature_name or "serving_default"
        model.check(loaded, signature, {name: _shape(name, proto) for name, proto in request.inputs.items()}, self.limits.rows)
        given = {name: _array(name, proto) for name, proto in request.inputs.items()}
        return loaded, signature, model.answer(loaded, signature, given)

    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            work = asyncio.get_running_loop().run_in_executor(self.workers, self._predict, request)
            loaded, signature, found = await asyncio.wait_for(work, self.limits.seconds)
        except asyncio.TimeoutError:
            await _abort(context, Refusal(f"no answer within --request_timeout={self.limits.seconds:g} seconds", "late"))
        except Refusal as refusal:
            await _abort(context, refusal)
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = NAME, signature
        response.model_spec.version.value = loaded.version
        for name, x in found.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(x))
        return response

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            loaded = _named(self.shelf, request.model_spec)
        except Refusal as refusal:
            await _abort(context, refusal)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, function in loaded.signatures.items():
            made = signatures.signature_def[name]
            made.method_name = "tensorflow/serving/predict"
            for infos, specs in ((made.inputs, loaded.inputs[name]), (made.outputs, function.structured_outputs)):
                for key, spec in specs.items():
                    tensor = meta_graph_pb2.TensorInfo(name=spec.name or "", dtype=spec.dtype.as_datatype_enum)
                    tensor.tensor_shape.CopyFrom(spec.shape.as_proto())
                    infos[key].CopyFrom(tensor)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = NAME
        response.model_spec.version.value = loaded.version
        response.metadata["signature_def"].Pack(signatures)
        return response


class Status(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    async def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            loaded = _named(self.shelf, request.model_spec)
        except Refusal as refusal:
            await _abort(context, refusal)
        response = get_model_status_pb2.GetModelStatusResponse()
        one = response.model_version_status.add(version=loaded.version)
        one.state = get_model_status_pb2.ModelVersionStatus.State.AVAILABLE
        return response


def server(shelf: Shelf, limits: Limits, workers: Executor, address: str) -> Any:
    """A gRPC server at an address, not yet started. Raises: OSError if the address is taken."""
    made = grpc.aio.server(options=[("grpc.max_receive_message_length", limits.bytes), ("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(shelf, limits, workers), made)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(shelf), made)
    try:
        made.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} is taken") from error
    return made
