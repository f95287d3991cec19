"""Score records: valid JSON that gives back the very numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.contract.outputs import Scored
from stream.decode.codec import Codec
from stream.step.scores import encode_scores
from tests.support.factory import config, event, records

PROBABILITY = st.floats(0, 1, allow_subnormal=True)


@given(st.lists(st.tuples(PROBABILITY, PROBABILITY, PROBABILITY), min_size=1, max_size=5))
def test_a_score_record_gives_back_every_number_exactly(rows: list[tuple[float, ...]]) -> None:
    """Ids, times, positions and floats survive the way through JSON, bit for bit."""
    piece = records("events", 40, [event(i, id=f'é"{i}') for i in range(len(rows))])
    events, bad = Codec(config(Path("unused"))).events(piece.records)
    table = np.array(rows)
    p, times = table[:, 0], events.columns.event_time_ms
    scored = Scored(events.records, events.ids, times, p, table[:, 1:], p >= 0.5)
    made = encode_scores(scored, ("a-b", "c_d"), ',"scored_at":7,"model":"m","seq":3')
    assert bad == []
    assert [r.key for r in made] == [i.encode() for i in events.ids]
    assert [r.partition for r in made] == [0] * len(rows)
    assert [json.loads(r.value or b"") for r in made] == [
        {
            "id": f'é"{i}',
            "event_time": events.columns.event_time_ms[i],
            "score": row[0],
            "alert": row[0] >= 0.5,
            "members": {"a-b": row[1], "c_d": row[2]},
            "partition": 0,
            "offset": 40 + i,
            "scored_at": 7,
            "model": "m",
            "seq": 3,
        }
        for i, row in enumerate(rows)
    ]
