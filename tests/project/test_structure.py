"""The shape of the source: rooms, which way imports run, who may import what.

Read from the syntax trees, imports inside functions included; nothing is imported or run here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = ("models", "monitoring", "stream", "millrace")
"""Each package may import those before it."""
ROOMS = {
    "models": ("kernels", "features", "members", "ensemble", "reco"),
    "monitoring": ("quality", "drift", "parameters", "audit", "show"),
    "stream": (
        *("settings", "contract", "decode", "encode", "step", "logs", "state", "http", "run"),
        *("tools", "demo", "cli"),
    ),
    "millrace": (),
}
"""The rooms of each package, bottom to top: each may import those before it, and the files that
stand beside the rooms; those import no room."""
SIDE_BY_SIDE = 13
"""Files in one folder at most, ``__init__.py`` not counted."""
FILES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))

MOST_LINES_OF_A_FUNCTION = 60

IMPORTERS = {
    "kafka": ("stream/logs/kafka/*.py", "stream/logs/kafka/clients/*.py"),
    "confluent_kafka": ("stream/logs/kafka/clients/confluent.py",),
    "fastavro": ("stream/decode/avro.py", "stream/encode/avro.py"),
    "google": ("stream/decode/protobuf.py", "stream/encode/protobuf.py"),
    "jsonschema_rs": ("stream/decode/json_schema.py",),
    "httpx": ("stream/run/registry.py",),
    "sqlite3": ("stream/logs/sqlite/*.py",),
    "prometheus_client": (
        "monitoring/show/metrics.py",
        "monitoring/show/series.py",
        "stream/demo/scaled.py",
    ),
    "starlette": ("stream/http/*.py",),
    "uvicorn": ("stream/http/server.py", "stream/http/connections.py"),
    "h11": ("stream/http/connections.py",),
    "typer": ("stream/cli/*.py",),
    "river": ("models/members/river/*.py",),
    "torch": ("models/members/torch/*.py",),
    "lightgbm": (),
    "ray": (),
    "pickle": ("models/members/river/unpickle.py",),
}
"""Library to the files that may import it at module level."""
LAZY_IMPORTERS = {
    "lightgbm": ("models/members/refit/fit.py",),
    "ray": ("stream/run/placed/cluster.py",),
    "torch": (
        *("monitoring/parameters/*.py", "monitoring/parameters/torch/*.py"),
        "monitoring/parameters/files/*.py",
    ),
}
"""Library to the files that may import it inside a function, beside those above."""

FORBIDDEN_CALLS = {
    "time": None,
    "random": None,
    "secrets": None,
    "uuid": None,
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "os": {"urandom"},
}
"""What a step may not call: module or class to its functions, ``None``: any."""
NOT_IN_A_STEP = {
    "models/members/river/repairs.py": "makes a generator that River never draws from",
    "stream/step/pending/segments.py": "names working files; names are no part of the state",
}
"""Files that the engine reaches and that may all the same, with the reason."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.relative_to(ROOT).match(pattern) for pattern in patterns)


@cache
def imports(path: Path, lazy: bool) -> frozenset[str]:
    """Dotted names that a file imports: at module level, or with ``lazy`` inside functions."""
    found: set[str] = set()
    todo: list[tuple[ast.AST, bool]] = [(tree(path), False)]
    while todo:
        node, inside = todo.pop()
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        todo += [(child, inside) for child in ast.iter_child_nodes(node)]
        if inside == lazy and isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif inside == lazy and isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: a relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(node.module or "")
    return frozenset(found)


def every_import(path: Path) -> frozenset[str]:
    return imports(path, lazy=False) | imports(path, lazy=True)


def module_file(dotted: str) -> Path | None:
    """The file of one of our own modules."""
    place = ROOT.joinpath(*dotted.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path in FILES:
            return path
    return None


def test_imports_run_one_way() -> None:
    """Stream imports monitoring and models, monitoring imports models, models neither."""
    wrong = [
        f"{name(path)} imports {dotted}"
        for path in FILES
        for dotted in every_import(path)
        if dotted.split(".")[0] in ORDER[ORDER.index(path.relative_to(ROOT).parts[0]) + 1 :]
    ]
    assert wrong == []


def room(path: Path) -> tuple[str, str]:
    """Package and room; the room is empty for a file beside the rooms."""
    package, *rest = path.relative_to(ROOT).parts
    return package, rest[0] if len(rest) > 1 else ""


def test_every_folder_is_a_room_of_the_plan() -> None:
    """``ls`` of a package shows its rooms; a new one takes its place in the order."""
    for package, rooms in ROOMS.items():
        folders = {
            room(path)[1] for path in FILES if path.relative_to(ROOT).parts[0] == package
        } - {""}
        assert folders == set(rooms), package


def imported_files(path: Path) -> set[Path]:
    """Our own files that a file imports, type-only imports and those in functions included.

    ``from a.b import c`` is the file ``a/b/c.py`` where there is one, else ``a/b``.
    """
    found: set[Path] = set()
    for node in ast.walk(tree(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [
                f"{node.module}.{alias.name}"
                if module_file(f"{node.module}.{alias.name}")
                else node.module or ""
                for alias in node.names
            ]
        found |= {file for name in names if (file := module_file(name)) is not None}
    return found - {path}


def test_no_import_runs_upward_between_rooms() -> None:
    """A room imports rooms below it; what stands beside the rooms imports none of them."""
    wrong = []
    for path in FILES:
        package, here = room(path)
        rooms = ("", *ROOMS[package])
        wrong += [
            f"{name(path)} imports {name(other)}"
            for other in imported_files(path)
            if room(other)[0] == package and rooms.index(room(other)[1]) > rooms.index(here)
        ]
    assert wrong == []


def test_no_circle_of_imports_between_files() -> None:
    """Files can be read one after another, each after those that it imports."""
    left = {path: imported_files(path) for path in FILES}
    while ready := {path for path, needs in left.items() if not needs & left.keys()}:
        left = {path: needs for path, needs in left.items() if path not in ready}
    assert sorted(map(name, left)) == []


def test_folders_stay_small() -> None:
    """What lies side by side can be taken in at one look."""
    counts: dict[Path, int] = {}
    others = [p for top in ("tests", "benchmarks") for p in (ROOT / top).rglob("*.py")]
    for path in [*FILES, *others]:
        if path.name != "__init__.py":
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert {name(p): n for p, n in counts.items() if n > SIDE_BY_SIDE} == {}


WAITS = {"wait", "join", "result", "settimeout", "communicate"}
"""Methods whose first argument is how long they wait."""


def test_no_test_has_a_deadline_of_its_own() -> None:
    """How long a test waits at most is said in tests/support/waiting.py: a machine may be slow."""
    wrong = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            limits = [k.value for k in node.keywords if k.arg == "timeout"]
            if isinstance(node.func, ast.Attribute) and node.func.attr in WAITS:
                limits += node.args[:1]
            if any(
                isinstance(x, ast.Constant) and isinstance(x.value, int | float) for x in limits
            ):
                wrong.append(f"{name(path)}:{node.lineno}")
    assert wrong == []


def test_tests_mirror_the_rooms() -> None:
    """Every folder of tests of a package has the name of a room."""
    for package, rooms in ROOMS.items():
        folders = {p.name for p in (ROOT / "tests" / package).iterdir() if p.is_dir()}
        assert folders - {"__pycache__", "rules"} <= set(rooms)


FILE_NAME = re.compile(r"``([\w/]+\.py)``")


def test_docstrings_name_files_that_exist() -> None:
    """A file named in a docstring stands beside the one that names it, or under the whole path."""
    wrong = [
        f"{name(path)}: {named}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for named in FILE_NAME.findall(ast.get_docstring(node) or "")
        if not (path.parent / named).exists() and not (ROOT / named).exists()
    ]
    assert wrong == []


def test_docstrings_do_not_tell_who_calls() -> None:
    """Callers change; an editor finds them. Docstrings say what a file does and never does."""
    tells = re.compile(r"[Cc]alled (once )?(by|from) (the )?``|only caller|are the callers")
    wrong = [name(p) for p in FILES if tells.search(ast.get_docstring(tree(p)) or "")]
    assert wrong == []


def test_models_and_monitoring_know_no_program_around_them() -> None:
    """Neither imports tests, benchmarks or a part of the HTTP, CLI or log side."""
    outside = {"tests", "benchmarks", "kafka", "sqlite3", "starlette", "uvicorn", "typer"}
    wrong = [
        f"{name(path)} imports {dotted}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] != "stream"
        for dotted in every_import(path)
        if dotted.split(".")[0] in outside
    ]
    assert wrong == []


WRITTEN_OTHERWISE = {
    "stream/contract/private.py": "is the one place",
    "stream/demo/player.py": "simulated payments",
    "stream/tools/draft/text.py": "a configuration, which must not exist yet",
}
"""Files of ``stream/`` that open others for writing themselves, with the reason."""


def test_files_are_made_in_one_place() -> None:
    """What a service keeps or exports is its owner's alone by ``stream/contract/private.py``."""
    wrong = []
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != "stream" or name(path) in WRITTEN_OTHERWISE:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                called = ast.unparse(node.func)
                texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
                writes = called.endswith("open") and any(re.match("[wax]", str(t)) for t in texts)
                if writes or called.endswith((".write_bytes", ".write_text")):
                    wrong.append(f"{name(path)}:{node.lineno}")
    assert wrong == []


def test_one_function_writes_to_terminals() -> None:
    """No console but the one that shows text as text, no markup, and no bare ``print``."""
    one = "monitoring/terminal.py"
    markup = re.compile(r"""["'][^"']*\[(/|bold|red|green|yellow)[^"']*\]""")
    wrong = [
        f"{name(path)}:{node.lineno}"
        for path in FILES
        if name(path) != one
        for node in ast.walk(tree(path))
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("Console", "print", "Text.from_markup")
        )
        or (isinstance(node, ast.JoinedStr) and markup.search(ast.unparse(node)))
    ]
    assert wrong == []


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_has_few_importers(library: str) -> None:
    """Each of these libraries can be replaced by changing the files named for it."""
    allowed = IMPORTERS[library]
    lazily = (*allowed, *LAZY_IMPORTERS.get(library, ()))
    for path in FILES:
        for lazy, patterns in ((False, allowed), (True, lazily)):
            found = {d for d in imports(path, lazy) if d.split(".")[0] == library}
            assert not found or matches(path, patterns), f"{name(path)} imports {sorted(found)}"


def test_only_the_composition_root_names_a_log() -> None:
    """The embedded and the Kafka log are imported by one file alone; others see the protocol."""
    logs = {"stream.logs.sqlite.log", "stream.logs.kafka.log"}
    importers = {name(path) for path in FILES if every_import(path) & logs}
    assert importers == {"stream/run/assemble.py"}


def test_nobody_imports_a_member_type() -> None:
    """Members are found by name in the registry: adding one changes no other module."""
    from models.members.catalogue import MEMBERS

    modules = {target.partition(":")[0] for tasks in MEMBERS.values() for target in tasks.values()}
    importers = {name(path): every_import(path) & modules for path in FILES}
    assert {k: v for k, v in importers.items() if v} == {}


def compiled_in(path: Path) -> set[str]:
    """Modules of ours from which the kernels of a file take functions or constants.

    Constants of the file itself are followed to what they are made of.
    """
    origin: dict[str, str] = {}
    parts: dict[str, list[ast.AST]] = {}
    kernels: list[str] = []
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom):
            origin |= {alias.asname or alias.name: node.module or "" for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            parts[node.name] = [*node.body]
            if any(
                "njit" in ast.unparse(d) or "entry" in ast.unparse(d) for d in node.decorator_list
            ):
                kernels.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names = [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]
                parts |= {name: [node.value] for name in names}
    found: set[str] = set()
    todo, seen = kernels, set()
    while todo:
        used = todo.pop()
        if used not in seen:
            seen.add(used)
            found |= {origin[used]} if used in origin else set()
            nodes = [node for part in parts.get(used, []) for node in ast.walk(part)]
            todo += [node.id for node in nodes if isinstance(node, ast.Name)]
    return {module for module in found if module.split(".")[0] in ORDER}


def test_kernels_are_made_of_their_own_file_and_of_kernels() -> None:
    """A kept kernel is compiled anew when one of these has changed, and for no other change."""
    assert "models.kernels.common" in compiled_in(ROOT / "models/members/forest.py")
    wrong = [
        f"{name(path)} compiles in what stands in {module}"
        for path in FILES
        for module in compiled_in(path)
        if not module.startswith("models.kernels.")
    ]
    assert wrong == []


def test_kernels_are_kept_by_their_entry_alone() -> None:
    """Numba's own cache does not see a changed helper."""
    wrong = [
        f"{name(path)}:{node.value.lineno}: cache="
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword) and node.arg == "cache"
    ]
    assert wrong == []


def reached_by_a_step() -> set[Path]:
    """The engine and all of our own that it imports, and every member type."""
    from models.members.catalogue import MEMBERS

    todo = [
        "stream.step.engine",
        *(t.partition(":")[0] for tasks in MEMBERS.values() for t in tasks.values()),
    ]
    found: set[Path] = set()
    while todo:
        path = module_file(todo.pop())
        if path is not None and path not in found:
            found.add(path)
            todo += every_import(path)
    return found


def impure_calls(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        target = node.func
        if isinstance(target, ast.Name) and target.id == "hash":
            yield f"{name(path)}:{node.lineno}: hash() differs from one process to the next"
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
            owner, called = target.value.id, target.attr
            if owner in FORBIDDEN_CALLS:
                which = FORBIDDEN_CALLS[owner]
                if which is None or called in which:
                    yield f"{name(path)}:{node.lineno}: {owner}.{called}()"


def test_a_step_reads_no_clock_and_draws_nothing_unseeded() -> None:
    """What the engine reaches calls no clock, no global generator and no ``hash``."""
    reached = reached_by_a_step()
    assert {
        "stream/decode/codec.py",
        "models/ensemble/ensemble.py",
        "monitoring/audit/auditor.py",
    } <= set(map(name, reached))
    calls = [call for path in sorted(reached) for call in impure_calls(path)]
    assert [c for c in calls if c.partition(":")[0] not in NOT_IN_A_STEP] == []


def test_no_dependency_ships_a_package_of_our_names() -> None:
    """Our packages have plain names: nothing that is installed may bring another of them."""
    shipped = {
        f"{d.name}: {path.parts[0]}"
        for d in distributions()
        if d.name != "millrace"
        for path in d.files or ()
        if path.parts and path.parts[0] in ORDER
    }
    assert shipped == set()


def test_functions_stay_short() -> None:
    """A function fits on one screen."""
    long = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{name(path)}: {node.name}: {length} lines")
    assert long == []
