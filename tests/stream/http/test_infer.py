"""The Open Inference Protocol, read by Triton's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from stream.contract.records import Record
from stream.decode.codec import Codec
from stream.http.infer import Inference
from stream.http.problem import Problem
from stream.settings.load import parse
from tests.support.http_fake import RAW, Running, event
from tests.support.waiting import DEADLINE_S

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client(fresh: Running) -> Iterator[InferenceServerClient]:
    """Triton's client of a server over the in-memory backend."""
    with InferenceServerClient(
        fresh.url.removeprefix("http://"),
        connection_timeout=DEADLINE_S,
        network_timeout=DEADLINE_S,
    ) as found:
        yield found


def tensors(*events: dict[str, Any]) -> list[InferInput]:
    """Events as columns."""
    kinds = {float: ("FP64", np.float64), int: ("INT64", np.int64), bool: ("BOOL", np.bool_)}
    made = []
    for name, value in events[0].items():
        datatype, dtype = kinds.get(type(value), ("BYTES", np.object_))
        tensor = InferInput(name, [len(events)], datatype)
        data = np.array([e[name] for e in events], dtype)
        tensor.set_data_from_numpy(data, binary_data=False)
        made.append(tensor)
    return made


def outputs(*names: str) -> list[InferRequestedOutput]:
    return [InferRequestedOutput(name, binary_data=False) for name in names]


def test_the_server_and_its_model_are_told_of(client: InferenceServerClient) -> None:
    """Health, the server, the model under the shard's name, and its inputs by their places."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("test")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "millrace"
    model = client.get_model_metadata("test")
    assert {i["name"]: i["datatype"] for i in model["inputs"]} == {
        "payment_id": "BYTES",
        "time": "INT64",
        "amount": "FP64",
        "customer": "BYTES",
        "terminal": "BYTES",
        "category": "BYTES",
        "online": "BOOL",
    }
    assert model["members"] == ["flat", "other"]


def test_events_are_scored_and_nothing_is_appended(
    client: InferenceServerClient, fresh: Running
) -> None:
    """Several at once, each by itself."""
    asked = tensors(event("p1"), event("p2"), event("p3"))
    result = client.infer("test", asked, outputs=outputs("id", "score", "alert", "members"))
    assert result.as_numpy("id").tolist() == ["p1", "p2", "p3"]
    assert result.as_numpy("score").tolist() == [0.5] * 3
    assert result.as_numpy("alert").tolist() == [True] * 3
    assert result.as_numpy("members").tolist() == [[0.5, 0.5]] * 3
    assert result.get_response()["model_version"] == "1"
    assert fresh.backend.appends == []


def test_an_id_and_a_moment_that_are_left_out_are_new_and_now(
    client: InferenceServerClient, fresh: Running
) -> None:
    """A client sends features alone; the answer tells the id."""
    less = {k: v for k, v in event().items() if k not in ("payment_id", "time")}
    result = client.infer("test", tensors(less), request_id="r7")
    assert len(result.as_numpy("id")[0]) == 36
    assert result.get_response()["id"] == "r7"


def test_an_event_is_appended_when_the_mode_says_so(
    client: InferenceServerClient, fresh: Running
) -> None:
    """One event, as JSON; the answer is of its committed score."""
    mode = {"mode": "event"}
    with pytest.raises(InferenceServerException, match="expected Content-Type application/json"):
        client.infer("test", tensors(event("p1")), parameters=mode)
    result = client.infer("test", tensors(event("p1")), parameters=mode, headers=JSON)
    assert result.as_numpy("score").tolist() == [0.5]
    assert len(fresh.backend.values("events")) == 1
    with pytest.raises(InferenceServerException, match="expected one event"):
        client.infer("test", tensors(event("a"), event("b")), parameters=mode, headers=JSON)


def test_errors_are_those_that_clients_read(client: InferenceServerClient, fresh: Running) -> None:
    """What is wrong with a request, a model that is not there, a service that is not ready."""
    bad = tensors(event("p1", amount="1"), event("p2", amount="2"))
    with pytest.raises(InferenceServerException, match=r"\$\[1\].amount: ") as caught:
        client.infer("test", bad)
    assert caught.value.status() == "422"
    with pytest.raises(InferenceServerException, match="got 'price'"):
        client.infer("test", tensors(event("p1", price=1.0)))
    with pytest.raises(InferenceServerException, match="got 'reasons of mine'"):
        client.infer("test", tensors(event("p1")), outputs=outputs("reasons of mine"))
    binary = tensors(event("p1"))
    binary[0].set_data_from_numpy(np.array([b"p1"], object))
    with pytest.raises(InferenceServerException, match="binary_data=False"):
        client.infer("test", binary)
    with pytest.raises(InferenceServerException, match="got '/v2/models/other"):
        client.get_model_metadata("other")
    assert fresh.http.get("/v2/models/other").json().keys() == {"error"}
    assert fresh.http.post("/v2").json().keys() == {"error"}
    fresh.backend.readiness = (False, "restoring")
    assert not client.is_server_ready()
    with pytest.raises(InferenceServerException, match="restoring"):
        client.infer("test", tensors(event("p1")))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([], "one length"),
        ([{"name": "amount", "shape": [2], "datatype": "FP64", "data": [1.0]}], "got [2] of 1"),
        ([{"name": "amount", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}], "n values"),
        (
            [
                {"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.0]},
                {"name": "online", "shape": [2], "datatype": "BOOL", "data": [True, True]},
            ],
            "one length",
        ),
        ([{"name": "amount", "shape": [101], "datatype": "FP64", "data": [1.0] * 101}], "100"),
        ([{"name": "amount", "shape": [1], "datatype": "XML", "data": [1.0]}], "got 'XML'"),
        ([{"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.0]}] * 2, "each once"),
    ],
)
def test_tensors_that_are_no_events_are_refused(
    shared: Running, inputs: list[Any], sentence: str
) -> None:
    """With what was expected of their shapes."""
    answer = shared.http.post("/v2/models/test/infer", json={"inputs": inputs})
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


def test_columns_may_be_nested(shared: Running) -> None:
    """Of shape [n, 1], as some clients write them."""
    columns = {**event("p1"), "category": None}
    inputs = [
        {"name": k, "shape": [1, 1], "datatype": "BYTES", "data": [[v]]} for k, v in columns.items()
    ]
    answer = shared.http.post("/v2/models/test/infer", json={"inputs": inputs})
    assert answer.json()["outputs"][0]["data"] == ["p1"]


def test_cloud_events_get_their_envelope() -> None:
    """What the format needs and no client of this protocol sends."""
    fields = {"amount": {"kind": "number", "path": "data.amount"}}
    c = parse(
        RAW | {"event": {"format": "cloudevents", "fields": fields}, "features": RAW["features"]},
        "test",
    )
    body = b'{"inputs": [{"name": "data.amount", "shape": [1], "datatype": "FP64", "data": [5]}]}'
    _, [made] = Inference(c).asked(body)
    _, bad = Codec(c).events([Record("events", 0, 0, None, made)])
    assert bad == []
    with pytest.raises(Problem, match="got 'amount'"):
        Inference(c).asked(body.replace(b"data.amount", b"amount"))


def test_classes_have_names() -> None:
    """What is predicted, and what each member says; empty where nothing is."""
    target = {"type": "classes", "classes": ["a", "b"]}
    found = Inference(parse(RAW | {"target": target}, "test"))
    asked, _ = found.asked(
        b'{"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64", "data": [5]}]}'
    )
    row = {"id": "p", "score": 0.5, "alert": False, "prediction": None, "seq": 3}
    told = {
        o["name"]: o for o in found.answer(asked, [row | {"members": {"flat": "a"}}])["outputs"]
    }
    assert told["prediction"]["data"] == [""]
    assert (told["members"]["shape"], told["members"]["data"]) == ([1, 2], ["a", ""])


def test_reasons_are_told_as_json() -> None:
    """Where they are configured; empty of a score that has none."""
    found = Inference(parse(RAW | {"reasons": {}}, "test"))
    asked, _ = found.asked(
        b'{"inputs": [{"name": "amount", "shape": [2], "datatype": "FP64", "data": [5, 6]}],'
        b' "outputs": [{"name": "reasons"}]}'
    )
    [told] = found.answer(asked, [{"seq": 3, "reasons": {"link": 0.5}}, {"seq": 3}])["outputs"]
    assert told["data"] == ['{"link":0.5}', ""]
