"""Texts of others on a terminal: shown as they are, in one line, whatever they hold."""

from __future__ import annotations

import io
import json
import math
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from monitoring.table import show, table
from monitoring.terminal import Terminal, in_json, plain, styled

PARTS = "[]/\\\x1b\n\r\t\x9b\u202e\u2028:"
WHOLE = [r"\[/nope]", "[bold]", "[/]", "\x1b[2J\x1b[H", "\x1b]0;title\x07", ":smile:", "[link=x]"]
HOSTILE = st.text(st.characters() | st.sampled_from(PARTS)) | st.sampled_from(WHOLE)
CONTROLS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def lines(printed: str) -> list[str]:
    """What was printed, as lines; nothing in them but characters that show themselves."""
    assert printed.endswith("\n")
    found = printed.removesuffix("\n").split("\n")
    assert not [c for line in found for c in line if unicodedata.category(c) in CONTROLS]
    return found


@given(HOSTILE)
def test_a_text_is_one_line_of_characters_that_show(text: str) -> None:
    """What shows itself stays as it is; the rest is escaped, and that once only."""
    found = plain(text)
    assert found.isprintable()
    assert plain(found) == found
    assert found == text or not text.isprintable()


@given(HOSTILE)
@example(r"\[/nope]")
def test_what_is_printed_is_the_text(text: str) -> None:
    """No markup is read, in a line, beside another text, or in a style."""
    file = io.StringIO()
    console = Terminal(file=file, width=80)
    console.print(text)
    console.print(styled(text, "bold red"), text)
    shown = plain(text)
    assert lines(file.getvalue()) == [shown, f"{shown} {shown}"]


@given(HOSTILE, HOSTILE)
@example("", "four words " * 9)
@example("four words " * 9, "")
def test_a_cell_stays_in_its_row(text: str, head: str) -> None:
    """A table has a line for its heads, one below them, and one a row."""
    file = io.StringIO()
    made = table([head or "a", "n"])
    made.add_row(text, "1")
    made.add_row("x", "2")
    show(made, Terminal(file=file, width=80))
    found = lines(file.getvalue())
    assert len(found) == 4
    assert found[2].rstrip().endswith("1")
    assert plain(text).strip() in found[2]


def test_json_has_no_numbers_that_are_none() -> None:
    """Wherever they stand they are null, and the document can be read by anybody."""
    value = {"a": [math.nan, {"b": -math.inf}, (0.5, None)], "c": True}
    assert json.loads(in_json(value)) == {"a": [None, {"b": None}, [0.5, None]], "c": True}


@given(st.dictionaries(HOSTILE, HOSTILE))
def test_json_is_ascii(value: dict[str, str]) -> None:
    """What a script reads says nothing to a terminal either, and is the same value."""
    printed = in_json(value)
    assert all(c == "\n" or " " <= c <= "~" for c in printed)
    assert json.loads(printed) == value
