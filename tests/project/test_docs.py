"""What the documentation says is true: links, configurations, commands and examples.

A TOML block whose first line is ``# fragment`` is laid over the configuration of the quickstart;
one whose first line names a file (``# pyproject.toml``) is not a configuration. A Python block
whose first line names a file is that file.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

from models.base import FeatureBatch, FeatureSchema
from models.members import catalogue
from stream.cli.main import app
from stream.http.openapi.document import document
from stream.settings.load import parse

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "deploy" / "README.md",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The text of every fenced block in one of these languages."""
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    texts = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", t)) for t in titles]
    return {text.strip().lower().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    """Every relative link names a file that exists, and a heading in it."""
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name(page)}: {link}"


@functools.cache
def quickstart() -> dict[str, Any]:
    """The first configuration of the quickstart: what fragments are laid over."""
    return tomllib.loads(next(blocks(ROOT / "docs" / "quickstart.md", "toml")))


def laid_over(base: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the fragment's tables in it; lists of tables grow, another type replaces."""
    merged = dict(base)
    for key, value in fragment.items():
        before = merged.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            other = "type" in value and value["type"] != before.get("type")
            merged[key] = value if other else laid_over(before, value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            merged[key] = [*(before or []), *value]
        else:
            merged[key] = value
    return merged


def configurations() -> list[tuple[str, str]]:
    return [
        (f"{name(page)}-{i}", text)
        for page in PAGES
        for i, text in enumerate(blocks(page, "toml"))
        if not re.match(r"# [\w./-]+\.toml\n", text)
    ]


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the examples: the Python files that the pages name."""
    for page in PAGES:
        for text in blocks(page, "python"):
            found = re.match(r"# (\w+\.py)\n", text)
            if found:
                (tmp_path / found[1]).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # What an installed package would say by its entry point.
    monkeypatch.setitem(catalogue.MEMBERS, "base_rate", {"binary": "base_rate:BaseRate"})
    return tmp_path


@pytest.mark.parametrize(("where", "text"), configurations(), ids=lambda v: v[:40].split("\n")[0])
def test_configurations_are_valid(where: str, text: str, examples: Path) -> None:
    """Every TOML block passes `millrace check`, fragments over the quickstart's configuration."""
    raw = tomllib.loads(text)
    if text.startswith("# fragment"):
        raw = laid_over(quickstart(), raw)
    parse(raw, where)


def commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the CLI, as words."""
    for word, command in group.commands.items():
        yield (*prefix, word)
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, word))


def test_commands_exist() -> None:
    """Every `millrace COMMAND`, and every option after it, is one of the CLI."""
    cli = typer.main.get_command(app)
    known = {words[0] for words in commands(cli)}
    for page in PAGES:
        code = [*blocks(page, "sh", "ini", ""), *re.findall(r"`([^`]+)`", prose(page))]
        for line in "\n".join(code).splitlines():
            for rest in re.findall(r"(?:^|[\s/])millrace ([a-z][a-z-]*.*)", line):
                words = rest.split("#")[0].split()
                assert words[0] in known, f"{name(page)}: millrace {rest}"
                check_options(cli, words, f"{name(page)}: millrace {rest}")


def check_options(cli: Any, words: list[str], where: str) -> None:
    command = cli
    for word in words:
        if hasattr(command, "commands"):
            if word not in command.commands:
                return
            command = command.commands[word]
        elif word.startswith("--"):
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            assert word.partition("=")[0] in options | {"--help"}, where


def test_make_targets_exist() -> None:
    """Every `make TARGET` is one of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        code = [*blocks(page, "sh"), *re.findall(r"`([^`]+)`", prose(page))]
        used = set(re.findall(r"^make (?:-C \S+ )?([a-z-]+)", "\n".join(code), re.MULTILINE))
        assert used <= known, name(page)


def test_the_makefile_compiles_modules_that_there_are() -> None:
    """What `make demo` imports before its packages are all there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    names = re.findall(r"\b(?:models|monitoring|stream)(?:\.\w+)+", makefile)
    assert len(names) > 8
    modules = [n for n in names if find_spec(n) is None]
    assert modules == []


def test_http_routes_exist() -> None:
    """Every route under /v1 that a page names is one of the API."""
    paths = document(parse(quickstart(), "quickstart"))["paths"]
    routes = {path.partition("/{")[0] for path in paths}
    for page in PAGES:
        used = set(re.findall(r"/v1/[a-z-]+", page.read_text(encoding="utf-8")))
        assert used <= routes, name(page)


def test_metrics_exist() -> None:
    """Every `millrace_...` series that a page names is exposed."""
    from tests.support.tools import all_metric_names

    known = all_metric_names()
    known |= {series.removesuffix("_bucket") for series in known}  # a histogram as a whole
    for page in PAGES:
        used = set(re.findall(r"\bmillrace_[a-z_]+[a-z]\b", prose(page))) - {"millrace_file"}
        assert used <= known, name(page)


def test_the_own_member_keeps_the_contract(examples: Path) -> None:
    """The example of a member type learns, saves and restores as models/base.py says."""
    schema = FeatureSchema(("amount",))
    x = FeatureBatch(schema, np.ones((3, 1), np.float32), np.empty((3, 0), np.uint32))
    one = catalogue.build("base_rate", {"prior": 2.0}, schema, 0)
    one.learn(x, np.array([1.0, 0.0, 1.0]), np.ones(3))
    assert one.score(x) == pytest.approx(np.full((3, 1), np.log(4 / 3)))
    other = catalogue.build("base_rate", {}, schema, 0)
    other.restore(one.state())
    for member in (one, other):
        member.learn(x, np.zeros(3), np.ones(3))
    assert one.digest() == other.digest()
