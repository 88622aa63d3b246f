"""TensorFlow Serving's REST protocol: predict in rows and in columns, metadata, status, and its form of errors.

GET  /v1/models/policy[/versions/N]            status
GET  /v1/models/policy[/versions/N]/metadata   signatures
POST /v1/models/policy[/versions/N]:predict    {"instances": [...]} or {"inputs": ...}, and "signature_name"
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from aiohttp import web

from tfpg.serving import model
from tfpg.serving.model import Arrays, Model, Refusal, Shelf

NAME = "policy"
STATUS = {"invalid": 400, "missing": 404, "large": 413, "late": 504}
DTYPES = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "int8": "DT_INT8", "uint8": "DT_UINT8", "int16": "DT_INT16", "uint16": "DT_UINT16"}
DTYPES |= {"int32": "DT_INT32", "int64": "DT_INT64", "uint32": "DT_UINT32", "uint64": "DT_UINT64", "bool": "DT_BOOL", "string": "DT_STRING"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Limits(NamedTuple):
    """What a request may cost."""

    rows: int
    bytes: int
    seconds: float


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def parse(body: bytes) -> dict[str, Any]:
    """A request's JSON object. Raises: Refusal for anything else; NaN and Infinity are no JSON."""
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is no JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise Refusal("the body must be a JSON object")
    return found


def _by_rows(specs: dict[str, tf.TensorSpec], instances: Any) -> dict[str, Any]:
    """Columns of a request in rows. A row is an object, or the value itself where a signature takes one input."""
    if not isinstance(instances, list) or not instances:
        raise Refusal("instances must be a list of one row or more")
    if isinstance(instances[0], dict):
        names = set(instances[0])
        if not all(isinstance(row, dict) and set(row) == names for row in instances):
            raise Refusal("each of the instances must have the same inputs")
        return {name: [row[name] for row in instances] for name in instances[0]}
    if len(specs) != 1:
        raise Refusal(f"each of the instances must be an object with {', '.join(specs)}")
    return {next(iter(specs)): instances}


def _by_columns(specs: dict[str, tf.TensorSpec], inputs: Any) -> dict[str, Any]:
    """Columns of a request in columns: an object, or the value itself where a signature takes one input."""
    if isinstance(inputs, dict):
        return inputs
    if len(specs) != 1:
        raise Refusal(f"inputs must be an object with {', '.join(specs) or 'nothing in it'}")
    return {next(iter(specs)): inputs}


def read(loaded: Model, body: bytes) -> tuple[str, bool, Arrays]:
    """Signature, whether by rows, and inputs of a predict request. Raises: Refusal."""
    asked = parse(body)
    unknown = sorted(set(asked) - {"signature_name", "instances", "inputs"})
    if unknown:
        raise Refusal(f"{unknown[0]!r} is unknown: signature_name, instances and inputs are allowed")
    if ("instances" in asked) == ("inputs" in asked):
        raise Refusal("the body must have either instances or inputs")
    signature = asked.get("signature_name", "serving_default")
    if not isinstance(signature, str):
        raise Refusal("signature_name must be a text")
    specs = loaded.specs(signature)
    rows = "instances" in asked
    values = _by_rows(specs, asked["instances"]) if rows else _by_columns(specs, asked["inputs"])
    return signature, rows, {name: model.column(name, specs[name], x) if name in specs else np.asarray(0) for name, x in values.items()}


def _plain(x: np.ndarray) -> Any:
    return x.item().decode() if x.dtype.kind == "O" else x.tolist()


def written(by_rows: bool, found: Arrays) -> dict[str, Any]:
    """The answer in the form of the question; a single output stands by itself."""
    columns = {name: _plain(x) for name, x in found.items()}
    if not by_rows:
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def status(loaded: Model) -> dict[str, Any]:
    ready = {"version": str(loaded.version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"model_version_status": [ready]}


def _info(spec: Any) -> dict[str, Any]:
    dims = [] if spec.shape.rank is None else [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape]
    return {"dtype": DTYPES[spec.dtype.name], "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": spec.name or ""}


def metadata(loaded: Model) -> dict[str, Any]:
    signatures = {
        name: {
            "inputs": {key: _info(spec) for key, spec in loaded.inputs[name].items()},
            "outputs": {key: _info(spec) for key, spec in function.structured_outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
        for name, function in loaded.signatures.items()
    }
    spec = {"name": NAME, "signature_name": "", "version": str(loaded.version)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}


def _failed(code: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=code)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is said in TensorFlow Serving's form."""
    request.app[HEARD].add(request.protocol)
    try:
        return await handler(request)
    except Refusal as refusal:
        return _failed(STATUS[refusal.kind], str(refusal))
    except web.HTTPRequestEntityTooLarge as error:
        return _failed(error.status, f"the body is too large: at most {request.app[LIMITS].bytes:,} bytes are allowed")
    except web.HTTPException as error:
        return _failed(error.status, f"{request.method} {request.path}: {error.reason}")
    except asyncio.TimeoutError:
        return _failed(STATUS["late"], f"no answer within --request_timeout={request.app[LIMITS].seconds:g} seconds")
    except Exception as error:
        print(f"A request failed within the server: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return _failed(500, "the server failed; what happened is in its own output")


SHELF = web.AppKey("shelf", Shelf)
LIMITS = web.AppKey("limits", Limits)
WORKERS = web.AppKey("workers", Executor)
HEARD = web.AppKey("heard", set)
"""Connections whose first request has come, its headers at least."""


def _asked(request: web.Request) -> Model:
    """The version that a path names, or the newest. Raises: Refusal if it is not served."""
    loaded, version = request.app[SHELF].model, request.match_info.get("version")
    if request.match_info["name"] != NAME:
        raise Refusal(f"model {request.match_info['name']!r} is unknown: {NAME} is served", "missing")
    if version is not None and int(version) != loaded.version:
        raise Refusal(f"version {version} is not served: {loaded.version} is", "missing")
    return loaded


async def _status(request: web.Request) -> web.Response:
    return web.json_response(status(_asked(request)))


async def _metadata(request: web.Request) -> web.Response:
    return web.json_response(metadata(_asked(request)))


def _predict(loaded: Model, body: bytes, rows: int) -> bytes:
    signature, by_rows, given = read(loaded, body)
    model.check(loaded, signature, {name: (x.dtype, x.shape) for name, x in given.items()}, rows)
    found = model.answer(loaded, signature, given)
    return json.dumps(written(by_rows, found), allow_nan=False).encode()


async def _answer(request: web.Request) -> web.Response:
    """Reading and answering together must not take longer than they may; the loop stays free for others meanwhile."""
    loaded, limits = _asked(request), request.app[LIMITS]

    async def work() -> bytes:
        body = await request.read()
        return await asyncio.get_running_loop().run_in_executor(request.app[WORKERS], _predict, loaded, body, limits.rows)

    return web.Response(body=await asyncio.wait_for(work(), limits.seconds), content_type="application/json")


async def hang_up(runner: web.AppRunner, every: float) -> None:
    """Ends connections that bring no headers within the time of a request; after its first one, aiohttp ends one that is idle."""
    heard, seconds, since = runner.app[HEARD], runner.app[LIMITS].seconds, dict[Any, float]()
    while runner.server:
        open_, now = runner.server.connections, time.monotonic()
        heard.intersection_update(open_)
        since = {connection: since.get(connection, now) for connection in open_}
        for connection in since.keys() - heard:
            if now - since[connection] > seconds:
                connection.force_close()
        await asyncio.sleep(every)


def application(shelf: Shelf, limits: Limits, workers: Executor) -> web.Application:
    """The routes."""
    app = web.Application(middlewares=[errors], client_max_size=limits.bytes)
    app[SHELF], app[LIMITS], app[WORKERS], app[HEARD] = shelf, limits, workers, set()
    for path in ("/v1/models/{name:[^/:]+}", "/v1/models/{name:[^/:]+}/versions/{version:[0-9]{1,18}}"):
        app.router.add_get(path, _status)
        app.router.add_get(f"{path}/metadata", _metadata)
        app.router.add_post(f"{path}:predict", _answer)
    return app
