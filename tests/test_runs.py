"""The folder of a run: where it may be, and what is read from it."""

import os

import pytest

from sparsentropy import runs


def test_a_new_folder_an_empty_one_and_an_earlier_run_are_welcome(tmp_path):
    runs.check(tmp_path / "new" / "deeper", force=False)
    runs.check(tmp_path, force=False)
    for name in (*runs.FILES, ".DS_Store"):
        (tmp_path / name).touch()
    runs.check(tmp_path, force=False)


def test_a_relative_folder_is_looked_for_where_it_would_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.check(runs.Path("new"), force=False)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file"):
        runs.check(runs.Path("file/new"), force=False)


def test_other_files_are_named_unless_forced(tmp_path):
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"holds other files \(a, b, c, …\); give another folder, or --force"):
        runs.check(tmp_path, force=False)
    runs.check(tmp_path, force=True)


def test_a_folder_that_may_not_be_written_to_is_refused_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="may not be written to"):
        runs.check(tmp_path / "new", force=False)


@pytest.mark.parametrize("read", [runs.read, runs.rewrite_report])
def test_a_folder_without_a_run_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"holds no \w+\.safetensors; give a folder written by fit or demo"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "new")
