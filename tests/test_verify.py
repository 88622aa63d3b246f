"""What is refused before it is loaded, and what replaying notices. Nothing of a policy that is refused has run: a canary would show it."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from program import call
from tensorflow.core.protobuf import saved_model_pb2
from test_export import SPACES, trained

from tfpg import export, verify


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    learner, state = trained("discrete")
    about = {"algo": "npg", "env": "CartPole-v1", "seed": 0, "steps": 1000}
    return export.export(tmp_path_factory.mktemp("policy"), learner, state, SPACES["discrete"], about)


@pytest.fixture
def policy(original, tmp_path):
    return shutil.copytree(original, tmp_path / "policy" / "1")


def signed(path):
    """Beside a policy of other files, a sheet that lists them: whoever changes files can change the list too."""
    sheet = json.loads((path / export.SHEET).read_text())
    (path / export.SHEET).write_text(json.dumps({**sheet, "files": export.digests(path)}))
    return path


def test_what_was_exported_is_trusted_and_answers_to_the_bit(policy, capfd):
    code, out, err = call(capfd, "--mode=verify", f"--policy={policy.parent}")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{policy} holds npg on CartPole-v1, seed 0, after 1,000 steps (fingerprint ")
    assert "all of them allowed, and 4 files as they were exported" in lines[1]
    assert lines[2] == "Asked again what it was asked then: 6 of 6 answers are the same to the bit."


def changed(policy, change):
    model = saved_model_pb2.SavedModel.FromString((policy / "saved_model.pb").read_bytes())
    change(model)
    (policy / "saved_model.pb").write_bytes(model.SerializeToString())
    signed(policy)


def node(model):
    return model.meta_graphs[0].graph_def.node.add(name="more")


def operator(name):
    def change(model):
        model.meta_graphs[0].graph_def.library.function[0].node_def.add(name="more").op = name

    return change


def asset(model):
    model.meta_graphs[0].asset_file_def.add().filename = "../../../etc/passwd"


def compiled(model):
    node(model).op = "NoOp"
    model.meta_graphs[0].graph_def.node[-1].attr["_XlaMustCompile"].b = True


def huge(model):
    constant = node(model)
    constant.op = "Const"
    tensor = constant.attr["value"].tensor
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_shape.CopyFrom(tf.TensorShape([50_000, 50_000]).as_proto())
    tensor.float_val.append(1.0)


def two_graphs(model):
    model.meta_graphs.add().CopyFrom(model.meta_graphs[0])


def a_resource(model):
    model.meta_graphs[0].object_graph_def.nodes.add().resource.device = ""


def another_object(model):
    model.meta_graphs[0].object_graph_def.nodes.add().user_object.identifier = "_tf_keras_layer"


def compiled_function(model):
    model.meta_graphs[0].graph_def.library.function[0].attr["_XlaMustCompile"].b = True


def negative(model):
    huge(model)
    shape = model.meta_graphs[0].graph_def.node[-1].attr["value"].tensor.tensor_shape
    shape.dim[0].size, shape.dim[1].size = -1, -(2**35)


def huge_in_another_operator(model):
    huge(model)
    model.meta_graphs[0].graph_def.node[-1].op = "NoOp"


def shared_by_many(model):
    huge(model)
    model.meta_graphs[0].graph_def.node[-1].attr["value"].tensor.tensor_shape.CopyFrom(tf.TensorShape([5000, 5000]).as_proto())
    for _ in range(100):
        model.meta_graphs[0].object_graph_def.nodes.add().constant.operation = "more"


def registered(model):
    model.meta_graphs[0].object_graph_def.nodes[0].registered_name = "tf.StaticHashTable"


def saveable(model):
    model.meta_graphs[0].object_graph_def.nodes[0].saveable_objects["x"].restore_function = 1


def of_the_first(model):
    model.meta_graphs[0].ClearField("object_graph_def")


def collected(model):
    model.meta_graphs[0].collection_def["saved_model_main_op"].node_list.value.append("more")


def restores(model):
    model.meta_graphs[0].saver_def.restore_op_name = "StatefulPartitionedCall"


def initialises(model):
    output = model.meta_graphs[0].signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"]
    output.name = "StatefulPartitionedCall"


CHANGES = {
    "asks to be compiled, which": compiled_function,
    "a constant of a size below 0": negative,
    "constants would take": huge_in_another_operator,
    "its constants would take 10,1": shared_by_many,
    "an object of another kind, tf.StaticHashTable": registered,
    "an object of another kind, saveable": saveable,
    "it is of TensorFlow 1": of_the_first,
    "it is of TensorFlow 1.": collected,
    "it does something when it is loaded": restores,
    "it does something when it is loaded.": initialises,
    "ReadFile": operator("ReadFile"),
    "WriteFile": operator("WriteFile"),
    "PyFunc": operator("PyFunc"),
    "SaveV2": operator("SaveV2"),
    "HashTableV2": operator("HashTableV2"),
    "reads a file, ../../../etc/passwd": asset,
    "asks to be compiled": compiled,
    "its constants would take 10,000": huge,
    "other graphs": two_graphs,
    "an object of another kind, resource": a_resource,
    "an object of another kind, _tf_keras_layer": another_object,
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_graph_that_could_do_more_than_compute_is_refused(words, policy, capfd):
    changed(policy, CHANGES[words])
    code, out, err = call(capfd, "--mode=verify", f"--policy={policy}")
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith(f"run.py: --policy={policy} is not to be trusted: ")


def link(policy):
    (policy / "assets").mkdir(exist_ok=True)
    (policy / "assets" / "x").symlink_to("/etc/passwd")


FILES = {
    "assets/x is nothing that an export writes": link,
    "state.pkl is nothing that an export writes": lambda policy: (policy / "state.pkl").write_bytes(b"\x80\x04."),
    "saved_model.pb is no SavedModel": lambda policy: (policy / "saved_model.pb").write_bytes(b"\xff\xff not a protobuf"),
    "no assets.extra/policy.json in it": lambda policy: (policy / export.SHEET).unlink(),
    "policy.json is not what an export writes": lambda policy: (policy / export.SHEET).write_text("[" * 100_000),
    "its format is 2": lambda policy: (policy / export.SHEET).write_text(
        (policy / export.SHEET).read_text().replace('"format": 1', '"format": 2')
    ),
    "golden.npz is not the file that was exported": lambda policy: (policy / export.GOLDEN).write_bytes(b"x"),
    "variables.index is not the file": lambda policy: (policy / "variables" / "variables.index").unlink(),
}


@pytest.mark.parametrize("words", FILES)
def test_other_files_than_those_of_an_export_are_refused(words, policy, capfd):
    FILES[words](policy)
    code, out, err = call(capfd, "--mode=verify", f"--policy={policy}")
    assert (code, out) == (2, "")
    assert words in err


def test_a_link_to_a_policy_is_no_policy(policy):
    (policy.parent / "2").symlink_to(policy)
    with pytest.raises(verify.Refused, match="it is a link"):
        verify.read(policy.parent / "2")


def test_each_signature_needs_its_answers(policy):
    with pytest.raises(verify.Refused, match=r"golden\.npz has no answers of value"):
        verify.replay(with_golden(policy, lambda found: found.pop("value/outputs/value")))


def test_what_cannot_be_asked_is_refused(policy):
    def another(found):
        found["nothing/inputs/x"], found["nothing/outputs/y"] = np.zeros(1), np.zeros(1)

    with pytest.raises(verify.Refused, match="nothing does not answer"):
        verify.replay(with_golden(policy, another))


def test_too_much_is_refused(policy, monkeypatch):
    monkeypatch.setattr(verify, "MOST_BYTES", 1000)
    with pytest.raises(verify.Refused, match="and 1,000 are allowed"):
        verify.read(policy)


def test_a_policy_that_writes_a_file_when_it_is_loaded_has_not_written_it(tmp_path, capfd):
    """The canary is alive: loading it does write."""
    canary = tmp_path / "canary"

    class Evil(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], name="observation")])
        def act(self, observation):
            tf.io.write_file(str(canary), "x")
            return {"action": observation}

    evil = Evil()
    tf.saved_model.save(evil, str(tmp_path / "evil"), {"serving_default": evil.act})
    for mode in ("verify", "serve"):
        code, _, err = call(capfd, f"--mode={mode}", f"--policy={tmp_path / 'evil'}", *(["--port=0"] if mode == "serve" else []))
        assert code == 2
        assert "is not to be trusted" in err
    assert not canary.exists()
    tf.saved_model.load(str(tmp_path / "evil")).signatures["serving_default"](observation=tf.zeros([1, 3]))
    assert canary.exists()


def with_golden(policy, change):
    with np.load(policy / export.GOLDEN) as arrays:
        found = dict(arrays)
    change(found)
    np.savez(policy / export.GOLDEN, **found)
    return signed(policy)


def other_action(found):
    found["serving_default/outputs/action"] = found["serving_default/outputs/action"] + 1


def test_another_answer_than_the_one_at_its_export_is_refused(policy):
    with pytest.raises(verify.Refused, match="serving_default does not answer as it did when it was exported: its action differs"):
        verify.replay(with_golden(policy, other_action))


def last_bit(found):
    found["distribution/outputs/logits"] = np.nextafter(found["distribution/outputs/logits"], np.float32(np.inf))


def test_another_last_digit_is_told_not_refused(policy):
    replayed = verify.replay(with_golden(policy, last_bit))
    assert (replayed.outputs, replayed.same) == (6, 5)
    assert 0 < replayed.difference < 1e-5


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + b"\0" * 18])
def test_golden_files_of_another_kind_are_refused(content, policy):
    (policy / export.GOLDEN).write_bytes(content)
    with pytest.raises(verify.Refused, match=r"golden\.npz is not what an export writes"):
        verify.replay(policy)


def test_no_golden_file_is_unpickled(policy):
    class Evil:
        def __reduce__(self):
            return (open, (str(policy / "canary"), "w"))

    np.savez(policy / export.GOLDEN, **{"serving_default/inputs/observation": np.array([Evil()], object)})
    with pytest.raises(verify.Refused, match=r"golden\.npz is not what an export writes"):
        verify.replay(policy)
    assert not (policy / "canary").exists()


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_where_no_policy_is_there_is_none(place, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    code, _, err = call(capfd, "--mode=verify", f"--policy={tmp_path / place}")
    assert code == 2
    assert err == (
        f"run.py: --policy={tmp_path / place} holds no exported policy: a version, a run, or the policy directory of a run is allowed.\n"
    )


def test_the_newest_version_is_meant(original, tmp_path):
    for version in ("2", "10", "9"):
        shutil.copytree(original, tmp_path / "policy" / version)
    (tmp_path / "policy" / "11.tmp").mkdir()
    (tmp_path / "policy" / "12").mkdir()
    for path in (tmp_path, tmp_path / "policy", tmp_path / "policy" / "10"):
        assert verify.newest(path) == tmp_path / "policy" / "10"
