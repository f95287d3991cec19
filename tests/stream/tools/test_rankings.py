"""Rankings judged over files of interactions, by the protocol that is stated."""

from __future__ import annotations

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy.stats import binomtest
from typer.testing import CliRunner

from models.base import I64
from models.reco.ratings import Ratings
from models.reco.recommender import Interactions
from models.reco.settings import RatingSettings
from stream.cli.main import app
from stream.contract.hashing import hash_text
from stream.settings.load import parse
from stream.settings.schema import Config
from stream.tools.files import FileError
from stream.tools.ranking.evaluate import evaluate_ranks
from stream.tools.ranking.interactions import played
from stream.tools.ranking.ranks import mcnemar

QUIET = Console(file=io.StringIO())
CONFIG: dict[str, Any] = {
    "name": "films",
    "log": {"type": "embedded"},
    "target": {"type": "ranking"},
    "event": {"time_format": "s"},
}
TABLE = {
    "columns": ["user", "item", "rating", "second"],
    "separator": "\t",
    "value": "rating",
    "time": "second",
    "default_type": "rating",
}


def config(**reco: Any) -> Config:
    """A shard that ranks."""
    return parse(CONFIG | {"reco": {"table": TABLE} | reco}, "test")


def rows(n: int) -> I64:
    """Users, items, ratings and seconds; many share a second."""
    rng = np.random.default_rng(5)
    items = (30 * rng.random(n) ** 2).astype(np.int64)
    return np.column_stack(
        [rng.integers(0, 8, n), items, rng.integers(1, 6, n), 1_000_000 + rng.integers(0, 60, n)]
    )


def written(path: Path, table: I64) -> Path:
    """The rows between tabs, without a heading."""
    text = "".join("\t".join(map(str, row)) + "\n" for row in table.tolist())
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def in_order(table: I64) -> I64:
    """The numbers of the rows by time; ties as drawn."""
    drawn = np.random.default_rng(0).permutation(len(table))
    return drawn[np.argsort(table[drawn, 3], kind="stable")]


def by_popularity(table: I64, order: I64) -> dict[int, tuple[int, int]]:
    """The first and the last rank that each row's item may have by how often items were taken.

    Which of those that were taken equally often is ahead is not said here. What the row's user took
    is left out.
    """
    taken: dict[int, int] = {}
    seen: dict[int, set[int]] = {}
    ranks = {}
    for row in order.tolist():
        user, item = table[row, :2].tolist()
        own = seen.setdefault(user, set())
        others = [n for i, n in taken.items() if i not in own and i != item]
        known, n = item in taken and item not in own, taken.get(item, 0)
        first, last = (1 + sum(o > n for o in others), 1 + sum(o >= n for o in others))
        ranks[row] = (first, last) if known else (0, 0)
        own.add(item)
        taken[item] = n + 1
    return ranks


def test_ranks_are_those_of_the_protocol(tmp_path: Path) -> None:
    """All items are ranked, a tenth warms up, strangers are not scored."""
    table, out = rows(400), tmp_path / "r.parquet"
    data = written(tmp_path / "u.data.gz", table)
    forever = {"popular": {"slow": 1e9, "fast": 1e9}}
    summary = evaluate_ranks(config(members=forever), data, out, 64, QUIET)
    order, found = in_order(table), pq.read_table(out)
    assert found["row"].to_pylist() == order.tolist()
    expected = by_popularity(table, order)
    for row, rank in zip(order.tolist(), found["rank_popular"].to_pylist(), strict=True):
        first, last = expected[row]
        assert first <= rank <= last
    before = [int((table[order[:i], 0] == table[row, 0]).sum()) for i, row in enumerate(order)]
    scored = [i >= 40 and n > 0 for i, n in enumerate(before)]
    assert found["scored"].to_pylist() == scored
    ranks = found["rank_popular"].to_numpy()[scored]
    assert summary["scored"] == len(ranks)
    hits = (ranks > 0) & (ranks <= 10)
    inverse = np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0)
    gain = np.where(hits, 1 / np.log2(1 + np.maximum(ranks, 1)), 0.0)
    for name, values in (("hit_10", hits), ("mrr", inverse), ("ndcg_10", gain)):
        assert summary["quality"]["popular"][name] == pytest.approx(values.mean(), abs=1e-6)


def test_ratings_are_foretold_and_judged_beside_the_rankings(tmp_path: Path) -> None:
    """Every rating from a tenth on counts, whoever gave it and whether it is a positive or not."""
    table = rows(300)
    data, page = written(tmp_path / "u.data", table), tmp_path / "r.html"
    reco = {"ratings": {}, "positive": {"rating >= 4": 1}}
    summary = evaluate_ranks(config(**reco), data, None, 64, QUIET, page)
    played_in_order = table[in_order(table)]
    seed = config().seed
    alone = Ratings(RatingSettings(), 1_000_000, 100_000, seed)
    keys = [np.array([hash_text(str(i)) for i in ids], np.uint64) for ids in played_in_order.T[:2]]
    value = played_in_order[:, 2].astype(np.float64)
    none = np.zeros(300, np.uint64)
    told = alone.learn(
        Interactions(1000 * played_in_order[:, 3], keys[0], none, keys[1], np.ones(300), value)
    )
    off = (told - value[:, None])[30:]
    assert summary["ratings"]["scored"] == 270
    for j, (name, found) in enumerate(summary["ratings"]["quality"].items()):
        assert name == alone.scorers[j]
        assert found["rmse"] == pytest.approx(np.sqrt(np.square(off[:, j]).mean()), abs=1e-6)
        assert found["mae"] == pytest.approx(np.abs(off[:, j]).mean(), abs=1e-6)
    assert "Mean absolute error of the ratings" in page.read_text()
    assert "ratings" not in evaluate_ranks(config(), data, None, 64, QUIET)


def test_a_table_is_read_as_it_is_described(tmp_path: Path) -> None:
    """Between tabs or commas, with a heading or without, packed or not: the same interactions."""
    table, values = rows(30), []
    named = {k: v for k, v in TABLE.items() if k not in ("columns", "separator")}
    commas = "user,item,rating,second\n" + "".join(
        ",".join(map(str, row)) + "\n" for row in table.tolist()
    )
    (tmp_path / "u.csv").write_text(commas)
    for name, described in (("u.data", TABLE), ("u.data.gz", TABLE), ("u.csv", named)):
        path = tmp_path / name
        if path.suffix != ".csv":
            written(path, table)
        values.append([r.value for r in played(config(table=described), path).records])
    assert values[0] == values[1] == values[2]
    first = json.loads(values[0][0] or b"")
    assert (first["event"], first["type"]) == ("interaction", "rating")


def test_records_pass_as_they_stand(tmp_path: Path) -> None:
    """JSON Lines with an event in each; the bad ones are dead letters."""
    path = tmp_path / "e.jsonl"
    events = [
        {"event": "interaction", "timestamp": i, "user": f"u{i % 3}", "item": f"i{i % 4}"}
        for i in range(40)
    ]
    events[7] = {"event": "nothing", "timestamp": 7}
    path.write_text("".join(json.dumps(e) + "\n" for e in events))
    summary = evaluate_ranks(config(seen="include"), path, None, 16, QUIET)
    assert (summary["interactions"], summary["dead_letters"]) == (39, 1)
    assert summary["first_dead_letters"][0]["row"] == 8


def test_a_column_may_be_named_as_records_name_their_kind(tmp_path: Path) -> None:
    """What users do stands under 'event' in many a table: it says what to write, and then reads."""
    path = tmp_path / "shop.csv"
    lines = [f"{1000 + i},v{i % 3},{('view', 'addtocart')[i % 2]},i{i % 4}" for i in range(40)]
    path.write_text("timestamp,visitorid,event,itemid\n" + "\n".join(lines) + "\n")
    table = {"user": "visitorid", "item": "itemid"}
    with pytest.raises(FileError, match=r"'event' says 'view'.*type = \"event\" in \[reco.table\]"):
        played(config(table=table), path)
    done = played(config(table=table | {"type": "event"}), path)
    assert done.types == {"view": 20, "addtocart": 20}


def test_only_positives_are_judged(tmp_path: Path) -> None:
    """What does not count is neither learned nor in the denominator."""
    table = rows(300)
    data = written(tmp_path / "u.data", table)
    summary = evaluate_ranks(config(positive={"rating >= 4": 1}), data, None, 64, QUIET)
    high = table[table[:, 2] >= 4]
    assert summary["positives"] == len(high)
    alone = evaluate_ranks(config(), written(tmp_path / "h.data", high), None, 64, QUIET)
    assert alone["positives"] == len(high)


def test_what_keeps_all_interactions_from_counting_is_told(tmp_path: Path) -> None:
    """Types that nobody named, and times of another unit: with what stands in the file."""
    data = written(tmp_path / "u.data", rows(30))
    summary = evaluate_ranks(config(positive={"purchase": 1}), data, None, 64, QUIET)
    assert (
        "no interaction counts: expected what reco.positive names, 'purchase'; got the types "
        "'rating' (30)" in summary["notes"]
    )
    path = tmp_path / "e.jsonl"
    for at, wrong in ((881_250, True), (881_250_949, False)):
        event = {"event": "interaction", "timestamp": at, "user": "u", "item": "i"}
        path.write_text(json.dumps(event) + "\n")
        notes = evaluate_ranks(config(), path, None, 64, QUIET)["notes"]
        assert any("at 1970-01-11T04:47:30.000Z" in n for n in notes) == wrong


def test_how_batches_are_cut_changes_no_figure(tmp_path: Path) -> None:
    """One at a time or all together."""
    data = written(tmp_path / "u.data", rows(120))
    one, all_ = (evaluate_ranks(config(), data, None, n, QUIET) for n in (1, 500))
    assert one["quality"] == all_["quality"]
    assert one["weights"] == all_["weights"]


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    """With those that are there, and where to say it."""
    path = tmp_path / "x.csv"
    path.write_text("who,what\na,b\n")
    with pytest.raises(FileError, match=r"expected a column 'item', got who, what; .*reco.table"):
        played(config(table={}), path)


@pytest.mark.parametrize(("won", "lost"), [(9, 1), (0, 0), (5, 5), (300, 250), (0, 40)])
def test_mcnemar_is_the_exact_test(won: int, lost: int) -> None:
    """As SciPy's binomial test says."""
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)
    assert not math.isnan(mcnemar(won, lost))


def test_the_command_tells_and_writes(tmp_path: Path) -> None:
    """Figures, ranks and a page; options that mean nothing are refused; nothing scored is 3."""
    place = tmp_path / "c.toml"
    place.write_text(
        'name = "films"\nlog = { type = "embedded" }\ntarget = { type = "ranking" }\n'
        'event = { time_format = "s" }\n'
        f"reco = {{ table = {{ columns = {json.dumps(TABLE['columns'])}, "
        'separator = "\\t", value = "rating", time = "second" } }\n'
    )
    data = written(tmp_path / "u.data", rows(200))
    page = tmp_path / "r.html"
    asked = ["evaluate", str(place), "--data", str(data)]
    done = CliRunner().invoke(app, [*asked, "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert "cooccurrence" in done.output
    assert "Where the items taken had stood" in page.read_text()
    refused = CliRunner().invoke(app, [*asked, "--label-delay", "7d"])
    assert refused.exit_code != 0
    few = written(tmp_path / "few.data", rows(200)[:1])
    assert CliRunner().invoke(app, ["evaluate", str(place), "--data", str(few)]).exit_code == 3


def test_logged_lists_are_valued_by_a_configuration(tmp_path: Path) -> None:
    """Lists drawn at random of three items, in days of their own: the value of each ranking."""
    rng, day = np.random.default_rng(4), 86_400
    chance = {"a": 0.6, "b": 0.3, "c": 0.1}
    records: list[dict[str, Any]] = [
        {"event": "interaction", "timestamp": 1000 + i, "user": f"u{i}", "item": item}
        for i, item in enumerate("aaaabbbc")
    ]
    for i in range(300):
        now = 2000 + i * day // 10
        order = rng.permutation(list(chance)).tolist()
        items = [{"id": item, "propensity": 1 / (3 - k)} for k, item in enumerate(order)]
        records.append({"event": "ranking", "id": f"l{i}", "timestamp": now, "items": items})
        if rng.random() < chance[order[0]]:
            hit = {"event": "interaction", "timestamp": now + 1, "user": f"v{i}"}
            records.append(hit | {"item": order[0], "ranking": f"l{i}"})
    records.append({"event": "item", "timestamp": now + 90 * day, "item": "a"})
    data = tmp_path / "logged.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    shard = parse(CONFIG | {"label": {"horizon": "1d"}}, "test")
    value = evaluate_ranks(shard, data, None, 64, QUIET)["value"]
    assert value["lists"]["all"] == 300
    for name in ("ips", "snips", "dr"):
        assert value[name]["low"] < 0.6 < value[name]["high"]
        assert abs(value[name]["value"] - 0.6) < 0.1
    assert value["shown"]["value"] < 0.45
    place = tmp_path / "c.toml"
    place.write_text(
        'name = "films"\nlog = { type = "embedded" }\ntarget = { type = "ranking" }\n'
        'event = { time_format = "s" }\nlabel = { horizon = "1d" }\n'
    )
    done = CliRunner().invoke(app, ["evaluate", str(place), "--data", str(data)])
    assert f"{value['snips']['value']:.4f}" in done.output
    assert "300 lists whose horizon is over" in done.output


def test_a_configuration_that_ranks_is_checked(tmp_path: Path) -> None:
    """As any other."""
    place = tmp_path / "c.toml"
    place.write_text(
        f'name = "films"\nstate_dir = "{tmp_path / "state"}"\ntarget = {{ type = "ranking" }}\n'
        f'log = {{ type = "embedded", path = "{tmp_path / "log.db"}" }}\n'
    )
    assert CliRunner().invoke(app, ["check", str(place)]).exit_code == 0
