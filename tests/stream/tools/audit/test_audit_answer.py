"""`millrace audit score` of a shard that ranks: what an outsider learns of one answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stream.logs.log_file import revalued
from tests.stream.tools.audit.audited import millrace, settings
from tests.support.factory import interaction, wish
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import PATIENT

TAKEN, ASKED = 300, 5


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard that draws its lists, stopped; its first answer says what members said."""
    directory = tmp_path_factory.mktemp("shop")
    (directory / "c.toml").write_text(
        f'name = "shop"\nstate_dir = "{directory / "state"}"\ntarget = {{ type = "ranking" }}\n'
        f'log = {{ type = "embedded", path = "{directory / "log.db"}", timeout = "{PATIENT}" }}\n'
        'http = { enabled = false }\nlabel = { horizon = "1d" }\n'
        "[reco.explore]\ntemperature = 2\n"
    )
    c = settings(directory)
    asked = [wish(i, **({"explain": True} if i == 0 else {})) for i in range(ASKED)]
    with running(c) as service:
        append(c, ("events", [*(interaction(i) for i in range(TAKEN)), *asked]))
        caught_up(service, TAKEN + ASKED)
    return directory


def test_an_answer_is_given_once_more(shop: Path) -> None:
    """As committed, with what each member said of each place, which the answer need not say."""
    made = {
        a["id"]: a for raw in contents(settings(shop), "scores") if (a := json.loads(raw or b""))
    }
    for name in ("r0", "r3"):
        found = json.loads(millrace("audit", "score", shop / "c.toml", name, "--json"))
        assert (found["score"], found["replay"], found["exit"]) == (made[name], "the same bits", 0)
        assert found["step"]["digest"] == found["step"]["journal_digest"]
        assert set(found["versions"]) == {"recommender"}
        assert [set(p["members"]) for p in found["places"]] == 3 * [
            {"popular", "cooccurrence", "sessions"}
        ]
        plain = [{k: v for k, v in p.items() if k != "members"} for p in found["places"]]
        if name == "r0":
            assert found["places"] == made[name]["items"]
        else:
            assert plain == made[name]["items"]
    text = millrace("audit", "score", shop / "c.toml", "r3")
    assert "r3: 3 items" in text
    assert "cooccurrence" in text
    assert "the same bits" in text


def test_an_answer_that_was_changed_is_told(shop: Path) -> None:
    """Its step gives other bits; an interaction is no answer."""
    revalued(shop / "log.db", "scores", lambda value: value.replace(b'"r4"', b'"r4" '))
    found = json.loads(millrace("audit", "score", shop / "c.toml", "r4", "--json", status=13))
    assert found["replay"] == "other bits"
    assert "not hold its score" in millrace("audit", "score", shop / "c.toml", "i7", status=3)
