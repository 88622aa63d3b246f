"""The server, as its clients see it: TensorFlow Serving's REST protocol, and its own gRPC stubs."""

import http.client
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from program import ROOT, call
from test_export import SPACES, observations, trained

from tfpg import export, serving

pytest.importorskip("aiohttp")
grpc = pytest.importorskip("grpc")
pytest.importorskip("tensorflow_serving")

from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfpg.serving import model, rest, rpc  # noqa: E402


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """The program, serving, in a process of its own."""

    def __init__(self, policy, *flags):
        self.grpc_port = free_port()
        command = [sys.executable, "run.py", "--mode=serve", f"--policy={policy}", "--port=0", f"--grpc_port={self.grpc_port}", *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.until("gRPC listens")
        self.port = int(self.lines[1].split("127.0.0.1:")[1].split("/")[0])

    def until(self, words):
        """Reads what the server says until it says these words."""
        while not self.lines or words not in self.lines[-1]:
            line = self.process.stdout.readline()
            assert line, (self.lines, self.process.stderr.read())
            self.lines.append(line)

    def ask(self, path, body=None, version=""):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", f"/v1/models/policy{version}{path}", content)
        response = connection.getresponse()
        found = response.status, json.loads(response.read())
        connection.close()
        return found

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.lines) + out, err


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    learner, state = trained("real")
    path = export.export(tmp_path_factory.mktemp("run") / "policy", learner, state, SPACES["real"])
    return path, tf.saved_model.load(str(path)).signatures


@pytest.fixture(scope="module")
def server(shipped):
    running = Server(shipped[0].parent, "--max_rows=50", "--max_bytes=100000", "--request_timeout=5")
    yield running
    if running.process.poll() is None:
        running.end()


X = observations("real", 5)


@pytest.mark.parametrize("rows", [1, 5])
def test_rows_are_answered_to_the_bit(rows, server, shipped):
    wanted = shipped[1]["serving_default"](observation=tf.constant(X[:rows]))["action"].numpy()
    for instances in (X[:rows].tolist(), [{"observation": row.tolist()} for row in X[:rows]]):
        code, found = server.ask(":predict", {"instances": instances})
        assert code == 200
        assert list(found) == ["predictions"]
        np.testing.assert_array_equal(np.array(found["predictions"], np.float32), wanted)


def test_columns_are_answered_to_the_bit(server, shipped):
    wanted = shipped[1]["serving_default"](observation=tf.constant(X))["action"].numpy()
    for inputs in (X.tolist(), {"observation": X.tolist()}):
        code, found = server.ask(":predict", {"inputs": inputs, "signature_name": "serving_default"})
        assert (code, list(found)) == (200, ["outputs"])
        np.testing.assert_array_equal(np.array(found["outputs"], np.float32), wanted)


def test_several_inputs_and_outputs_have_their_names(server, shipped):
    noise = np.random.default_rng(0).standard_normal([5, 3]).astype(np.float32)
    wanted = {k: v.numpy() for k, v in shipped[1]["noise"](observation=tf.constant(X), noise=tf.constant(noise)).items()}
    _, columns = server.ask(":predict", {"signature_name": "noise", "inputs": {"observation": X.tolist(), "noise": noise.tolist()}})
    rows = [{"observation": x.tolist(), "noise": e.tolist()} for x, e in zip(X, noise, strict=True)]
    _, by_rows = server.ask(":predict", {"signature_name": "noise", "instances": rows})
    assert set(columns["outputs"]) == set(wanted) == {"action", "log_prob"}
    for name, x in wanted.items():
        np.testing.assert_array_equal(np.array(columns["outputs"][name], np.float32), x)
        np.testing.assert_array_equal(np.array([row[name] for row in by_rows["predictions"]], np.float32), x)


def test_a_row_s_sample_does_not_depend_on_the_rows_beside_it(server):
    seeds = [[k, 7] for k in range(5)]
    ask = lambda rows: server.ask(  # noqa: E731
        ":predict", {"signature_name": "sample", "instances": [{"observation": X[k].tolist(), "seed": seeds[k]} for k in rows]}
    )[1]["predictions"]
    np.testing.assert_allclose(ask([3, 1, 4]), [ask([k])[0] for k in (3, 1, 4)], rtol=1e-6)
    np.testing.assert_array_equal(ask([3, 1, 4]), ask([3, 1, 4]))


def test_no_rows_in_columns_are_no_rows(server):
    assert server.ask(":predict", {"inputs": []}) == (200, {"outputs": []})


def test_status_and_metadata_are_those_of_tensorflow_serving(server):
    ready = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for version in ("", "/versions/1"):
        assert server.ask("", version=version) == (200, {"model_version_status": [ready]})
    code, found = server.ask("/metadata")
    assert (code, found["model_spec"]) == (200, {"name": "policy", "signature_name": "", "version": "1"})
    given = found["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["observation"]
    assert given["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in given["tensor_shape"]["dim"]] == ["-1", "3"]
    code, found = server.ask(":predict", {"signature_name": "metadata", "inputs": {}})
    assert code == 200
    assert json.loads(found["outputs"])["format"] == 1


GOOD = [0.0, 1.0, 2.0]
REFUSED = {
    b"{": "the body is no JSON",
    b'{"instances": [[NaN, 0, 0]]}': "NaN is no JSON",
    b'{"instances": [[Infinity, 0, 0]]}': "Infinity is no JSON",
    b'{"instances": [[1e400, 0, 0]]}': "holds a number that float32 does not",
    b'{"instances": [[1e39, 0, 0]]}': "holds a number that float32 does not",
    b"[]": "must be a JSON object",
    b"{}": "either instances or inputs",
    b'{"instances": [[0, 0, 0]], "inputs": [[0, 0, 0]]}': "either instances or inputs",
    b'{"instances": []}': "one row or more",
    b'{"instances": [[0, 0]]}': "must be float32 of [rows, 3]",
    b'{"instances": [[0]]}': "must be float32 of [rows, 3]",
    b'{"instances": [0]}': "must be float32 of [rows, 3]",
    b'{"instances": [[0, 0, 0], [0, 0]]}': "rows have different lengths",
    b'{"instances": [["0", "0", "0"]]}': "numbers only",
    b'{"instances": [[true, false, true]]}': "numbers only",
    b'{"instances": [[null, 0, 0]]}': "numbers only",
    b'{"instances": [{"x": [0, 0, 0]}]}': "observation is missing",
    b'{"instances": [{"observation": [0, 0, 0], "y": 1}]}': "y is unknown",
    b'{"instances": [{"observation": [0, 0, 0]}, {"y": 1}]}': "must have the same inputs",
    b'{"instances": [[0, 0, 0]], "signature_name": "nothing"}': "signature_name 'nothing' is unknown",
    b'{"instances": [[0, 0, 0]], "signature_name": 3}': "signature_name must be a text",
    b'{"instances": [[0, 0, 0]], "signature_name": "sample"}': "must be an object with",
    b'{"inputs": {"observation": [[0, 0, 0]], "seed": [[1.5, 2]]}, "signature_name": "sample"}': "whole numbers only",
    b'{"inputs": {"observation": [[0, 0, 0]], "seed": [[1, 99999999999]]}, "signature_name": "sample"}': "int32 does not",
    b'{"inputs": {"observation": [[0, 0, 0]], "seed": [[1, 2], [3, 4]]}, "signature_name": "sample"}': "different numbers of rows",
    b'{"instances": [[0, 0, 0]], "more": 1}': "'more' is unknown",
    b"[" * 5000: "the body is no JSON",
    json.dumps({"instances": ["x" * 5000, *[""] * 20_000]}).encode(): "numbers only",
    b'{"inputs": {"observation": [[0, 0, 0]], "seed": [[1, 18446744073709551616]]}, "signature_name": "sample"}': "int32 does not",
    b'{"instances": [[1%s, 0, 0]]}' % (b"0" * 400): "float32 does not",
    b'{"inputs": {"observation": [[0, 0, 0]], "noise": [[1e30, 0, 0]]}, "signature_name": "noise"}': "would not be finite",
}


@pytest.mark.parametrize("body", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_request_is_refused_in_a_sentence(body, server):
    code, found = server.ask(":predict", body)
    assert code == 400
    assert list(found) == ["error"]
    assert REFUSED[body] in found["error"]


def test_limits_are_kept_and_named(server):
    code, found = server.ask(":predict", {"instances": [GOOD] * 51})
    assert (code, found) == (413, {"error": "51 rows are too many: --max_rows=50 are allowed"})
    code, found = server.ask(":predict", b" " * 200_000)
    assert (code, found) == (413, {"error": "the body is too large: at most 100,000 bytes are allowed"})
    assert server.ask(":predict", {"instances": [GOOD] * 50})[0] == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/models/other", "model 'other' is unknown"),
        ("/v1/models/policy/versions/7", "version 7 is not served: 1 is"),
        ("/x", "Not Found"),
    ],
)
def test_what_is_not_there_is_not_found(path, words, server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 404
    assert words in json.loads(response.read())["error"]


def test_a_request_that_does_not_come_to_its_end_is_ended(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
        slow.sendall(b"POST /v1/models/policy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = slow.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 504")
    assert "no answer within --request_timeout=5 seconds" in answer


def test_a_connection_without_a_whole_request_is_ended(server):
    """Where it stalls in its headers, and where nothing comes at all; one that has asked before may wait."""
    asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    asked.request("GET", "/v1/models/policy")
    assert asked.getresponse().read()
    begun = time.monotonic()
    for sent in (b"", b"POST /v1/models/policy:predict HTTP/1.1\r\nHost: x\r\nContent-Le"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
            slow.sendall(sent)
            assert slow.recv(100) == b""
    assert time.monotonic() - begun > 2 * 4.9
    asked.request("GET", "/v1/models/policy")
    assert asked.getresponse().status == 200


def junk(draw, depth=0):
    """Any JSON value, most of them nearly right."""
    makers = [
        lambda: draw.choice([0, 1, -1, 2**31, 1.5, 1e30, -0.0, True, None, "x", "", "NaN", {}, []]),
        lambda: [draw.choice([0, 1.0, -2]) for _ in range(draw.choice([0, 1, 2, 3, 3, 3, 4]))],
        lambda: [junk(draw, depth + 1) for _ in range(draw.randrange(4))],
        lambda: {draw.choice(["observation", "seed", "noise", "x"]): junk(draw, depth + 1) for _ in range(draw.randrange(3))},
    ]
    return makers[draw.randrange(4 if depth < 3 else 2)]()


def well_formed(request):
    """Whether a request is one that must be answered, decided without the server's code."""
    rows = request.get("instances")
    if set(request) != {"instances"} or not isinstance(rows, list) or not rows:
        return False
    rows = [row["observation"] if isinstance(row, dict) and list(row) == ["observation"] else row for row in rows]
    number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)  # noqa: E731
    same = len({type(row) for row in request["instances"]}) == 1
    return same and all(isinstance(row, list) and len(row) == 3 and all(map(number, row)) for row in rows)


def malformed(server, count, draw):
    """Sends so many requests, most of them none. Returns what was answered that should not have been, or not that should have."""
    connection, wrong, answered = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30), [], 0
    for _ in range(count):
        request = {draw.choice(["instances", "instances", "signature_name", "x"]): junk(draw) for _ in range(draw.choice([1, 1, 1, 2]))}
        if draw.random() < 0.3:
            request = {"instances": [[draw.choice([0, 1.5, 2, "x", None, True]) for _ in range(3)]]}
        connection.request("POST", "/v1/models/policy:predict", json.dumps(request))
        response = connection.getresponse()
        found = json.loads(response.read())
        answered += response.status == 200
        if response.status not in (200, 400) or (response.status == 200) != well_formed(request):
            wrong.append(f"{request} was answered with {response.status} {found}")
    if not answered:
        wrong.append("no request was answered")
    if server.process.poll() is not None:
        wrong.append(f"the server ended with {server.process.returncode}")
    return wrong


def test_of_many_malformed_requests_none_is_answered_and_none_breaks_the_server(server):
    assert malformed(server, 2000, random.Random(0)) == []


def stub(server):
    return prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}"))


def asked(x, signature="serving_default", **more):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "policy", signature
    for name, value in {"observation": x, **more}.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_tensorflow_serving_s_own_client_is_answered_to_the_bit(server, shipped):
    response = stub(server).Predict(asked(X), 10)
    wanted = shipped[1]["serving_default"](observation=tf.constant(X))["action"]
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["action"]), wanted)
    assert (response.model_spec.name, response.model_spec.version.value) == ("policy", 1)


def test_its_client_reads_metadata_and_status(server):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "policy"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub(server).GetModelMetadata(request, 10).metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == {"serving_default", "sample", "noise", "distribution", "value", "metadata"}
    assert [dim.size for dim in signatures.signature_def["sample"].inputs["seed"].tensor_shape.dim] == [-1, 2]
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "policy"
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    (one,) = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, 10).model_version_status
    assert (one.version, one.state) == (1, get_model_status_pb2.ModelVersionStatus.State.AVAILABLE)


WRONG = {
    "shape": (X[:, :2], "must be float32 of [rows, 3]"),
    "broadcast": (X[:, :1], "must be float32 of [rows, 3]"),
    "type": (X.astype(np.float64), "is float64"),
    "text": (np.array([["a", "b", "c"]]), "must be float32"),
    "nan": (np.full([2, 3], np.nan, np.float32), "observation must be finite"),
    "rows": (np.zeros([51, 3], np.float32), "--max_rows=50"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_its_client_is_refused_with_a_code_and_a_sentence(kind, server):
    x, words = WRONG[kind]
    with pytest.raises(grpc.RpcError) as found:
        stub(server).Predict(asked(x), 10)
    assert found.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert words in found.value.details()


def test_a_tensor_that_says_it_is_huge_is_not_made(server):
    request = asked(X[:1])
    request.inputs["observation"].tensor_shape.dim[0].size = 10**9
    with pytest.raises(grpc.RpcError, match="too many"):
        stub(server).Predict(request, 10)


def test_many_tensors_that_nobody_asked_for_are_not_made(server):
    huge = tf.make_tensor_proto(np.float32(1))
    huge.tensor_shape.CopyFrom(tf.TensorShape([2_000_000]).as_proto())
    request = asked(X[:1])
    for k in range(1000):
        request.inputs[f"x{k}"].CopyFrom(huge)
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError, match="unknown"):
        stub(server).Predict(request, 10)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("field", ["name", "version", "label"])
def test_another_model_is_not_found_by_its_client(field, server):
    request = asked(X[:1])
    if field == "name":
        request.model_spec.name = "other"
    elif field == "label":
        request.model_spec.version_label = "stable"
    else:
        request.model_spec.version.value = 9
    with pytest.raises(grpc.RpcError) as found:
        stub(server).Predict(request, 10)
    assert found.value.code() == grpc.StatusCode.NOT_FOUND


def test_only_this_machine_is_listened_to(server):
    """The kernel's own tables of sockets: local address in hexadecimal, state 0A is listening; none of them in IPv6."""
    found = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{server.process.pid}/net/{table}") as lines:
            rows = [line.split() for line in lines][1:]
        found += [row[1] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) in (server.port, server.grpc_port)]
    assert {address[-13:] for address in found} == {f"0100007F:{port:04X}" for port in (server.port, server.grpc_port)}
    assert {address[:-13] for address in found} <= {"", "0000000000000000FFFF0000"}  # 127.0.0.1 as IPv6 writes it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_new_versions_are_picked_up_bad_ones_are_not_and_it_ends_gracefully(number, shipped, tmp_path):
    shutil.copytree(shipped[0], tmp_path / "policy" / "1")
    running = Server(tmp_path)
    answers, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            answers.append(running.ask(":predict", {"instances": [GOOD]})[0])

    asking = threading.Thread(target=keep_asking)
    asking.start()
    bad = shutil.copytree(shipped[0], tmp_path / "bad")
    (bad / "saved_model.pb").write_bytes(b"\xff")
    bad.rename(tmp_path / "policy" / "2")
    running.until("Version 2 is not served, 1 still is")
    assert running.ask("")[1]["model_version_status"][0]["version"] == "1"
    learner, state = trained("real")
    other = state._replace(policy=tf.nest.map_structure(lambda x: -x, state.policy))
    export.export(tmp_path / "policy", learner, other, SPACES["real"])
    running.until("Version 3 is served from now on")
    code, found = running.ask(":predict", {"instances": X.tolist()}, version="/versions/3")
    wanted = tf.saved_model.load(str(tmp_path / "policy" / "3")).signatures["serving_default"](observation=tf.constant(X))["action"]
    assert code == 200
    np.testing.assert_array_equal(np.array(found["predictions"], np.float32), wanted)
    assert running.ask(":predict", {"instances": [GOOD]}, version="/versions/1")[0] == 404
    stop.set()
    asking.join()
    assert set(answers) == {200}
    begun = time.monotonic()
    code, out, err = running.end(number)
    assert (code, err) == (0, "")
    assert "Ending: requests under way are answered." in out
    assert time.monotonic() - begun < 10


def test_a_port_that_is_taken_is_named(shipped, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = call(capfd, "--mode=serve", f"--policy={shipped[0]}", f"--port={port}")
    assert code == 1
    assert f"--port={port}" in err


def test_without_its_packages_it_says_what_brings_them(shipped, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "tfpg.serving.rest")
    monkeypatch.delattr(serving, "rest")
    code, _, err = call(capfd, "--mode=serve", f"--policy={shipped[0]}", "--port=0")
    assert code == 2
    assert "pip install 'tfpg[serve]' brings it" in err


def test_a_trusted_policy_is_loaded_though_it_is_refused(shipped, tmp_path):
    path = shutil.copytree(shipped[0], tmp_path / "1")
    (path / export.SHEET).unlink()
    with pytest.raises(ValueError, match="not to be trusted"):
        model.load(path, trust=False)
    assert "serving_default" in model.load(path, trust=True).signatures
    assert rest.NAME == "policy"
    assert set(rpc.CODES) == set(rest.STATUS)
