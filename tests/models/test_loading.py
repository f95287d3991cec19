"""Loading by name: dotted paths, files, and what the errors say."""

from __future__ import annotations

import collections
import os.path
import sys
from pathlib import Path

import pytest

from models.loading import FILE_PREFIX, LoadError, load_attribute
from models.members import catalogue
from models.members.catalogue import UnknownMember, member_class


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("collections.OrderedDict", collections.OrderedDict),
        ("collections:OrderedDict", collections.OrderedDict),
        ("os.path.join", os.path.join),
        ("collections.abc.Mapping", collections.abc.Mapping),
        ("collections.OrderedDict.fromkeys", collections.OrderedDict.fromkeys),
        ("collections:OrderedDict.fromkeys", collections.OrderedDict.fromkeys),
    ],
)
def test_dotted_paths_name_attributes(reference: str, expected: object) -> None:
    """Both spellings work, within packages and within classes."""
    assert load_attribute(reference) == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("collections.OrderedDic", "did you mean 'OrderedDict'"),
        ("collections:OrderedDic", "did you mean 'OrderedDict'"),
        ("no_such_package.Thing", "expected an installed module, got 'no_such_package'"),
        ("no_such_package:Thing", "expected an installed module, got 'no_such_package'"),
        ("collections", r"expected package\.module\.attr"),
        ("", r"expected package\.module\.attr"),
        ("a b.c", r"expected package\.module\.attr"),
        ("collections:", "expected a name of collections"),
        ("no/such/file.py:thing", "does not exist"),
    ],
)
def test_errors_say_what_was_expected(reference: str, message: str) -> None:
    """A wrong reference names the part that is wrong and the nearest right one."""
    with pytest.raises(LoadError, match=message):
        load_attribute(reference)


def test_a_file_is_loaded_without_touching_sys_path(tmp_path: Path) -> None:
    """The attribute comes from the file; neither sys.path nor the bare name changes."""
    file = tmp_path / "loading_one.py"
    file.write_text("class Thing:\n    answer = 42\n")
    before = list(sys.path)
    thing = load_attribute(f"{file}:Thing")
    assert thing.answer == 42
    assert sys.path == before
    assert "loading_one" not in sys.modules
    assert thing.__module__ == FILE_PREFIX + "loading_one"


def test_a_file_is_run_once(tmp_path: Path) -> None:
    """Two references to one file give the same class."""
    file = tmp_path / "loading_two.py"
    file.write_text("class Thing: pass\n")
    assert load_attribute(f"{file}:Thing") is load_attribute(f"{file}:Thing")


def test_a_relative_path_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``file.py:attr`` without a directory is enough."""
    (tmp_path / "loading_three.py").write_text("value = 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_attribute("loading_three.py:value") == 3


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """A saved model names its classes by the file's name: two of them would mix."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "loading_four.py").write_text("value = 4\n")
    load_attribute(f"{tmp_path}/a/loading_four.py:value")
    with pytest.raises(LoadError, match="expected files with different names"):
        load_attribute(f"{tmp_path}/b/loading_four.py:value")


def test_a_file_that_fails_says_how_and_can_be_tried_again(tmp_path: Path) -> None:
    """The error names file and cause; a mended file loads."""
    file = tmp_path / "loading_five.py"
    file.write_text("value = 1 / 0\n")
    with pytest.raises(LoadError, match=r"loading_five\.py failed while it ran: ZeroDivisionError"):
        load_attribute(f"{file}:value")
    file.write_text("value = 5555\n")
    assert load_attribute(f"{file}:value") == 5555


def test_a_missing_dependency_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed module that imports a missing one: the missing one is what to install."""
    (tmp_path / "loading_six.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LoadError, match="needs the package 'no_such_dependency'"):
        load_attribute("loading_six:value")


BROKEN = ["raise OSError('libx.so')", "raise ImportError('built for another numpy')", "1 / 0"]


@pytest.mark.parametrize("code", BROKEN)
def test_a_library_that_fails_while_it_is_imported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Whatever it raises: a running service turns the command down that names it."""
    (tmp_path / "loading_seven.py").write_text(code + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LoadError, match=r"'loading_seven:value' cannot be imported: .*Error: "):
        load_attribute("loading_seven:value")
    monkeypatch.setitem(catalogue.MEMBERS, "river", {"binary": "loading_seven:value"})
    with pytest.raises(UnknownMember, match=r"'river' cannot be imported: .*Error: "):
        member_class("river")
