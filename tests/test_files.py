"""Whole files or none, and errors that say which file it was."""

from pathlib import Path

import pytest

from tfpg import files, report

FULL = Path("/dev/full")  # takes no byte, whoever opened it


def row(steps):
    return {"steps": steps, "return_mean": 1.0, "return_min": 0.0, "eval_return": None}


@pytest.mark.skipif(not FULL.exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize("name", ["text", "curve", "common curve"])
def test_a_disk_that_is_full_is_told_with_the_file_s_name(name, tmp_path):
    write = {
        "text": lambda path: files.write_text(path.with_suffix(""), "x"),
        "curve": lambda path: report.learning_curve(path, [row(1), row(2)], "title"),
        "common curve": lambda path: report.common_learning_curve(path, [[row(1), row(2)], [row(1), row(2)]], "title"),
    }[name]
    path = tmp_path / f"file.{'tmp' if name == 'text' else 'png'}"
    path.symlink_to(FULL)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(path)
    assert str(path) in str(caught.value)


def test_an_error_that_names_its_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.named(tmp_path / "other"):
        (tmp_path / "missing" / "file").write_text("x")
    assert str(tmp_path / "missing" / "file") in str(caught.value)


def test_text_is_written_in_one_piece(tmp_path):
    files.write_text(tmp_path / "file", "old")
    files.write_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"
