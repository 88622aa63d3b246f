"""Compiled programs that are kept: found again, never trusted when damaged, never in the way."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tfpg import programs

ROOT = Path(programs.__file__).parent.parent
SCRIPT = """
import sys
from tfpg import programs
with programs.kept(sys.argv[1]):
    import tensorflow as tf
    compiled = tf.function(lambda x: tf.reduce_sum(tf.tanh(x @ x) + tf.cumsum(x)), jit_compile=True)
    print(float(compiled(tf.eye(8) / 3)))
"""


@pytest.fixture(autouse=True)
def _without_the_cache_of_the_tests(monkeypatch):
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)


def begin(place):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(place)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def compute(place):
    process = begin(place)
    out, _ = process.communicate()
    assert process.returncode == 0
    return out


def stored(place):
    return {file.name: file.stat().st_ino for file in place.glob("*/*")}


def write(file, content=b"x" * 100):
    """A program as XLA leaves one, and its name as it is kept."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return programs.sealed(file.name, file)


def test_later_processes_find_it_again_and_damage_is_compiled_anew(tmp_path):
    """The same result from a cold folder, a warm one, one whose programs are broken, and in two processes at once."""
    place = tmp_path / "cache"
    first = compute(place)
    (name, inode), *others = stored(place).items()
    assert not others
    assert name.endswith(f".{(place / programs.machine() / name).stat().st_size}.{(place / programs.machine() / name).stat().st_mtime_ns}")
    assert compute(place) == first
    assert stored(place) == {name: inode}
    file = next(place.glob("*/*"))
    body = bytearray(file.read_bytes())
    body[len(body) // 2 :] = bytes(255 - byte for byte in body[len(body) // 2 :])
    file.write_bytes(body)
    assert [process.communicate()[0] for process in (begin(place), begin(place))] == [first, first]
    repaired = stored(place)
    assert name not in repaired
    assert 1 <= len(repaired) <= 2  # each of the two may have kept its own
    assert compute(place) == first


def test_a_damaged_program_is_deleted_and_a_whole_one_is_linked(tmp_path):
    store = tmp_path / programs.machine()
    for name, change in (("whole.pb", None), ("short.pb", b"x" * 99), ("other.pb", b"y" * 100)):
        sealed = write(store / name)
        (store / name).rename(store / sealed)
        if change:
            time.sleep(0.01)
            (store / sealed).write_bytes(change)
    (store / "stranger").write_text("no program")
    with programs.kept(str(tmp_path)):
        (own,) = store.glob("run-*")
        assert [file.name for file in own.iterdir()] == ["whole.pb"]
        assert f"directory={own} " in os.environ["TF_XLA_FLAGS"]
    assert [file.name.split(".")[0] for file in store.iterdir()] == ["whole"]
    assert "TF_XLA_FLAGS" not in os.environ


def test_what_a_run_compiled_is_kept_and_what_it_left_half_made_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=0")
    store = tmp_path / programs.machine()
    with suppress(KeyError), programs.kept(str(tmp_path)):
        (own,) = store.glob("run-*")
        name = write(own / "new.pb")
        write(own / "new2.pb123.tmp")
        assert os.environ["TF_XLA_FLAGS"].startswith("--tf_xla_auto_jit=0 --tf_xla_persistent")
        raise KeyError  # a run that fails
    assert [file.name for file in store.iterdir()] == [name]
    assert os.environ["TF_XLA_FLAGS"] == "--tf_xla_auto_jit=0"


def test_the_oldest_programs_make_room(tmp_path, monkeypatch):
    """Those of other machines and versions too."""
    monkeypatch.setattr(programs, "BUDGET", 250)
    for age, directory in ((30, "elsewhere"), (20, programs.machine())):
        file = tmp_path / directory / f"old{age}.pb"
        write(file)
        os.utime(file, (time.time() - age, time.time() - age))
        file.rename(file.with_name(programs.sealed(file.name, file)))
    with programs.kept(str(tmp_path)):
        (own,) = tmp_path.glob("*/run-*")
        write(own / "new.pb")
    assert sorted(file.name.split(".")[0] for file in tmp_path.glob("*/*")) == ["new", "old20"]


def test_directories_of_runs_that_were_killed_are_removed_in_time(tmp_path):
    store = tmp_path / programs.machine()
    for name, age in (("run-dead", programs.LEFT + 60), ("run-alive", 60)):
        (store / name).mkdir(parents=True)
        os.utime(store / name, (time.time() - age, time.time() - age))
    with programs.kept(str(tmp_path)):
        pass
    assert [path.name for path in store.iterdir()] == ["run-alive"]


def no_folder(path):
    path.write_text("a file")


def writable_by_others(path):
    path.mkdir()
    path.chmod(0o777)


@pytest.mark.parametrize("spoil", [no_folder, writable_by_others])
def test_a_folder_that_will_not_do_is_done_without(spoil, tmp_path):
    spoil(tmp_path / "cache")
    with programs.kept(str(tmp_path / "cache")):
        assert "TF_XLA_FLAGS" not in os.environ
    assert not list((tmp_path / "cache").glob("*/*"))


def test_a_folder_of_another_user_and_a_full_disk_are_done_without(tmp_path, monkeypatch):
    with monkeypatch.context() as changed:
        changed.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
        with programs.kept(str(tmp_path / "cache")):
            assert "TF_XLA_FLAGS" not in os.environ
    monkeypatch.setattr(programs, "ROOM", 10**18)
    with programs.kept(str(tmp_path / "cache")):
        assert "TF_XLA_FLAGS" not in os.environ


def test_none_and_a_cache_of_the_user_s_own_are_respected(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with programs.kept("none"):
        assert "TF_XLA_FLAGS" not in os.environ
    own = "--tf_xla_persistent_cache_directory=/elsewhere"
    monkeypatch.setenv("TF_XLA_FLAGS", own)
    with programs.kept(""):
        assert os.environ["TF_XLA_FLAGS"] == own
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("TF_XLA_FLAGS")
    with programs.kept(""):
        assert str(tmp_path / "tfpg") in os.environ["TF_XLA_FLAGS"]


def test_other_machines_and_settings_have_programs_of_their_own(monkeypatch):
    names = [programs.machine()]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    names.append(programs.machine())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    names.append(programs.machine())
    monkeypatch.setattr(programs.importlib.metadata, "version", lambda _: "2.0")
    names.append(programs.machine())
    assert len(set(names)) == 4
