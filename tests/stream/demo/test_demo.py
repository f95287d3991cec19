"""The demo's own parts; the whole of it runs in ``tests/stream/cli/test_cli.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.demo import demo


@pytest.mark.parametrize("torch", [True, False])
def test_without_torch_the_demo_leaves_its_member_out(
    torch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without torch (5 GB) runs the demo with the other members, and is told."""
    monkeypatch.setattr(demo, "find_spec", lambda name: object() if torch else None)
    config = demo.demo_config(tmp_path, 0)
    assert demo.left_out(config) == ([] if torch else ["mlp"])
    assert len(config.members) == (5 if torch else 4)
