"""Reading and validating a configuration: one TOML file, ``MILLRACE_...`` variables laid over it.

``load`` returns a :class:`~stream.settings.schema.Config` or raises :class:`ConfigError` with every
problem it found, each as ``path: expected ..., got ...``. Nothing here opens a log or builds a
model.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.base import MillraceError
from stream.settings.checks import check
from stream.settings.problems import lines
from stream.settings.schema import Config, process
from stream.settings.shape import partly, secrets

ENV_PREFIX = "MILLRACE_"
_NO_SETTINGS = frozenset({"MILLRACE_FAILPOINT", "MILLRACE_CACHE", "MILLRACE_TOKEN_SHA256"})
"""Variables of the project's own that are no settings: of the fault tests, and of Compose."""
_SECRETS = secrets(Config)
_ENVIRONMENT_ONLY = (("log", "sasl_password"), ("registry", "password"), ("registry", "token"))
"""Secrets that no file may hold."""


class ConfigError(MillraceError):
    """The configuration is not usable. ``problems`` holds one line for each mistake."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        lines = "\n".join(f"  {p}" for p in problems)
        super().__init__(f"{source}: {len(problems)} problem(s)\n{lines}")


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read, overlay with ``MILLRACE_...`` and validate; raises :class:`ConfigError`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"is not TOML: {error}"]) from error
    written = [
        f"{part}.{key}: comes from the environment only; set "
        f"{ENV_PREFIX}{part.upper()}__{key.upper()}"
        for part, key in _ENVIRONMENT_ONLY
        if isinstance(raw.get(part), dict) and key in raw[part]
    ]
    return parse(overlay(raw, environ), str(path), written)


def environments(
    path: Path, environ: Mapping[str, str], count: int | None = None
) -> dict[str, dict[str, str]]:
    """What the environment says to each process of a service: by its name, the learner first.

    All run the same file; ``count``: another number of scorers than it says. Raises
    :class:`ConfigError`, also of a file that is for one process.
    """
    shard = load(path, environ).shard
    if shard.role == "all":
        raise ConfigError(
            str(path),
            [
                "shard.role: expected 'scorer' or 'learner', of a service of several processes, got"
                " 'all'; `millrace run` is for one process"
            ],
        )
    role, n = f"{ENV_PREFIX}SHARD__ROLE", shard.count if count is None else count
    own = {process("learner", 0): {role: "learner"}} | {
        process("scorer", i): {role: "scorer", f"{ENV_PREFIX}SHARD__INDEX": str(i)}
        for i in range(n)
    }
    if count is not None:
        own = {name: one | {f"{ENV_PREFIX}SHARD__COUNT": str(n)} for name, one in own.items()}
    return own


def parse(raw: dict[str, Any], source: str, problems: Sequence[str] = ()) -> Config:
    """Validate a raw tree; every problem at once, each as ``path: expected ..., got ...``."""
    found = list(problems)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        found += lines(error, Config)
        found += check(partly(Config, raw), whole=False)
    else:
        found += check(config, whole=True)
    if found:
        raise ConfigError(source, found)
    return config


def overlay(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """``raw`` with ``MILLRACE_A__B=value`` laid over ``a.b``; values are TOML, else text.

    A secret is text whatever it looks like. Items of lists go by index:
    ``MILLRACE_MEMBERS__0__TYPE``.
    """
    tree: dict[str, Any] = _copy(raw)
    for key in sorted(environ):
        if not _is_setting(key):
            continue
        *parents, last = _parts(key)
        node: Any = tree
        for parent in parents:
            node = _descend(node, parent)
        value = environ[key] if last in _SECRETS else _scalar(environ[key])
        if isinstance(node, list) and last.isdigit() and int(last) < len(node):
            node[int(last)] = value
        elif isinstance(node, dict):
            node[last] = value
        else:
            raise ConfigError(
                f"environment variable {key}", ["names no place in the configuration"]
            )
    return tree


def foreign(environ: Mapping[str, str]) -> list[str]:
    """Variables that begin like ours and name no part of the configuration.

    Kubernetes injects some for a service of our name, such as ``MILLRACE_PORT=tcp://...``.
    """
    return sorted(
        key
        for key in environ
        if key.startswith(ENV_PREFIX) and key not in _NO_SETTINGS and not _is_setting(key)
    )


def _parts(key: str) -> list[str]:
    return key[len(ENV_PREFIX) :].lower().split("__")


def _is_setting(key: str) -> bool:
    return key.startswith(ENV_PREFIX) and _parts(key)[0] in Config.model_fields


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _descend(node: Any, part: str) -> Any:
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    if isinstance(node, dict) and not part.isdigit():
        return node.setdefault(part, {})
    return None


def _scalar(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
