"""Checkpoints are whole or absent: every damage is noticed, and the one before it is taken."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfpg import checkpoint
from tfpg.errors import RunFault


def state(number):
    """A nest of several types that depends on `number`."""
    return {
        "train": ({"kernel": tf.fill([3, 2], float(number)), "step": tf.constant(number)}, ()),
        "flags": tf.constant([True, number % 2 == 0]),
    }


def assert_is(found, number):
    (read, counters) = found
    tf.nest.map_structure(np.testing.assert_array_equal, read, state(number))
    tf.nest.map_structure(lambda a, b: (a.dtype == b.dtype) or pytest.fail("type"), read, state(number))
    assert counters == {"iteration": number}


def save(directory, number):
    return checkpoint.save(directory, number, state(number), {"iteration": number})


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_is_read(tmp_path):
    save(tmp_path, 4)
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 4)


def test_the_newest_is_read_by_number_and_few_are_kept(tmp_path):
    for number in (8, 9, 10, 11):
        save(tmp_path, number)
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 11)
    assert names(tmp_path) == ["10", "11", "9"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def nonsense(path):
    path.write_bytes(b"\xff\xfe nonsense")


DAMAGES = {"truncated": truncate, "flipped": flip, "empty": lambda path: path.write_bytes(b""), "missing": lambda path: path.unlink()}


@pytest.mark.parametrize("damage", [*DAMAGES, "nonsense"])
@pytest.mark.parametrize("file", ["manifest.json", "state.index", "state.data-00000-of-00001"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(file, damage, tmp_path, capsys):
    if file == "manifest.json" and damage == "flipped":
        damage = "truncated"
    save(tmp_path, 1)
    save(tmp_path, 2)
    {**DAMAGES, "nonsense": nonsense}[damage](tmp_path / "2" / file)
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 1)
    assert names(tmp_path) == ["1", "2.bad"]
    assert "2 is damaged" in capsys.readouterr().out


def test_all_damaged_is_an_error_never_a_fresh_start(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "1" / "state.index").unlink()
    with pytest.raises(RunFault, match="holds no checkpoint"):
        checkpoint.latest(tmp_path, lambda _: state(0), repair=True)
    with pytest.raises(RunFault, match="holds no checkpoint"):
        checkpoint.latest(tmp_path / "nowhere", lambda _: state(0), repair=True)


def test_another_network_does_not_fit(tmp_path):
    save(tmp_path, 1)
    other = state(0)
    other["train"][0]["kernel"] = tf.zeros([2, 3])
    with pytest.raises(RunFault, match="another network"):
        checkpoint.latest(tmp_path, lambda _: other, repair=True)
    assert names(tmp_path) == ["1"]


def test_a_mere_reader_touches_nothing(tmp_path, capsys):
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "2" / "state.index").unlink()
    (tmp_path / "3.tmp").mkdir()
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=False), 1)
    assert names(tmp_path) == ["1", "2", "3.tmp"]
    assert "2 is damaged" in capsys.readouterr().out


def test_an_error_of_the_machine_is_no_damage(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def exhausted(_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(checkpoint, "_digest", exhausted)
    with pytest.raises(OSError, match="Too many"):
        checkpoint.latest(tmp_path, lambda _: state(0), repair=True)
    assert names(tmp_path) == ["1"]


def change_manifest(path, **changes):
    """As somebody would who knows how it is sealed."""
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(checkpoint._sealed({**manifest, **changes})))


def test_every_bit_of_a_manifest_matters_or_means_nothing(tmp_path):
    """Shapes, digests and counters too: what another shape would say is no mistake in the run's flags."""
    path = save(tmp_path, 3) / "manifest.json"
    content = path.read_bytes()
    harmless = 0
    for at in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            try:
                found = checkpoint.read(path.parent, lambda _: state(0))
            except checkpoint.DAMAGE:
                continue
            assert_is(found, 3)
            harmless += 1
    assert harmless < 0.1 * 8 * len(content)  # blanks that stay blanks


def test_a_manifest_of_the_first_format_had_no_seal(tmp_path):
    path = save(tmp_path, 3) / "manifest.json"
    manifest = {name: value for name, value in json.loads(path.read_text()).items() if name != "digest"}
    path.write_text(json.dumps({**manifest, "format": 1}))
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 3)


def test_a_checkpoint_of_the_second_format_held_objects(tmp_path):
    path = save(tmp_path, 3)
    tf.train.Checkpoint(leaves=[tf.Variable(leaf) for leaf in tf.nest.flatten(state(3))]).write(str(path / "state"))
    change_manifest(path, format=2, files={file.name: checkpoint._digest(file) for file in path.glob("state.*")})
    assert "_CHECKPOINTABLE_OBJECT_GRAPH" in dict(tf.train.list_variables(str(path / "state")))
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 3)


def test_tensorflow_reads_it_by_itself(tmp_path):
    reader = tf.train.load_checkpoint(str(save(tmp_path, 3) / "state"))
    leaves = tf.nest.flatten(state(3))
    assert len(reader.get_variable_to_shape_map()) == len(leaves)
    for k, leaf in enumerate(leaves):
        np.testing.assert_array_equal(reader.get_tensor(f"leaves/{k}/.ATTRIBUTES/VARIABLE_VALUE"), leaf)


def test_a_format_of_the_future_is_named(tmp_path):
    change_manifest(save(tmp_path, 3), format=7)
    with pytest.raises(RunFault, match="3 is of format 7, which a later tfpg wrote: this one reads up to 3"):
        checkpoint.latest(tmp_path, lambda _: state(0), repair=True)
    assert names(tmp_path) == ["3"]


def test_a_manifest_cannot_point_elsewhere(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "secret").write_text("x")
    files = json.loads((tmp_path / "1" / "manifest.json").read_text())["files"]
    change_manifest(tmp_path / "1", files={**files, "../secret": checkpoint._digest(tmp_path / "secret")})
    with pytest.raises(RunFault):
        checkpoint.latest(tmp_path, lambda _: state(0), repair=True)


@pytest.mark.parametrize("content", ["[]", "null", '{"files": 5, "leaves": [], "counters": {}}', None])
def test_a_manifest_of_another_kind_is_damage(content, tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    if content is None:
        change_manifest(tmp_path / "2", counters={})
    else:
        (tmp_path / "2" / "manifest.json").write_text(content)
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 1)


def test_names_that_only_look_like_numbers_are_passed_over(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "²").mkdir()
    (tmp_path / "9").write_text("a file")
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=False), 1)


def test_a_save_that_died_midway_is_swept_away(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.tmp")
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 1)
    assert names(tmp_path) == ["1"]


@pytest.mark.parametrize("call", ["write", "rename"])
def test_a_save_that_fails_leaves_the_last_one(call, tmp_path, monkeypatch):
    save(tmp_path, 1)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    target = {"write": (tf.raw_ops, "SaveV2"), "rename": (checkpoint.Path, "rename")}[call]
    with monkeypatch.context() as patch:
        patch.setattr(*target, fail)
        with pytest.raises(RunFault, match=r"2 cannot be written.*No space left"):
            save(tmp_path, 2)
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 1)
    save(tmp_path, 2)
    assert_is(checkpoint.latest(tmp_path, lambda _: state(0), repair=True), 2)
