"""The audit trail: canonical bytes, the chain, and what verification tells apart."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import StateError
from monitoring.audit.canonical import CanonicalError, canonical
from monitoring.audit.trail import (
    GENESIS,
    Exit,
    Head,
    Trail,
    TrailError,
    load_private_key,
    load_public_key,
    make_anchor,
    read_anchor,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
FOREIGN = Ed25519PrivateKey.from_private_bytes(b"f" * 32)


def write(trail: Trail, n: int) -> list[bytes]:
    """``n`` records with details of every supported type."""
    return [
        trail.record(
            "updated",
            at_ms=1_700_000_000_000 + i,
            cause="label",
            actor="engine",
            model="linear",
            detail={"norm": 0.1 * i, "rows": [[0, i]], "big": 2**60 + i, "note": "é€"},
        )
        for i in range(n)
    ]


# ---------------------------------------------------------------------- canonical form


def test_strings_are_escaped_as_rfc_8785_shows() -> None:
    """The string and the literals of RFC 8785, section 3.2.2, give the bytes printed there."""
    value = {"string": '€$\u000f\nA\'B"\\\\"/', "literals": [None, True, False]}
    assert canonical(value) == (
        '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'.encode()
    )


def test_keys_are_sorted_as_rfc_8785_shows() -> None:
    """The sorting example of RFC 8785, section 3.2.3: UTF-16 units, not code points."""
    value = {
        "€": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "ö": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical(value)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_numbers_that_a_reader_could_change_are_text() -> None:
    """Floats become their hexadecimal text, integers over 2^53 their decimal text."""
    value = [1, -(2**53), 2**53 + 1, 0.1, -0.0, 1e16, math.inf, True]
    assert canonical(value) == (
        b'[1,-9007199254740992,"9007199254740993","0x1.999999999999ap-4","-0x0.0p+0",'
        b'"0x1.1c37937e08000p+53","inf",true]'
    )


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {2: 3}]}, r"record\.a\[1\]: expected text as a key, got 2"),
        ({"a": {"b": b"raw"}}, r"record\.a\.b: .*got bytes"),
        ({"a": {1, 2}}, r"record\.a: .*got set"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_values_without_a_canonical_form_are_named(value: Any, path: str) -> None:
    """An unsupported value raises with its path."""
    with pytest.raises(CanonicalError, match=path):
        canonical(value)


text = st.text(st.characters(exclude_categories=("Cs",)))
trees = st.recursive(
    st.none() | st.booleans() | text | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def plain(value: Any) -> Any:
    """What a JSON reader gets for ``value``."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value.hex()
    big = isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53
    return str(value) if big else value


@given(trees)
def test_canonical_json_is_read_back_and_written_again(value: Any) -> None:
    """Any tree reads back as its plain form, and writing that again gives the same bytes."""
    raw = canonical(value)
    read = json.loads(raw)
    assert read == plain(value)
    assert canonical(read) == raw


# ---------------------------------------------------------------------- the chain


def test_hash_is_sha_256_over_the_domain_and_the_record() -> None:
    """The hash in a record can be computed by hand from the record."""
    first, second = write(Trail("fraud", KEY), 2)
    body = {k: v for k, v in json.loads(first).items() if k not in ("hash", "sig")}
    digest = hashlib.sha256(b"audit-v1\0" + canonical(body)).hexdigest()
    assert body["prev"] == GENESIS
    assert json.loads(first)["hash"] == json.loads(second)["prev"] == digest


def test_whole_trail_is_ok_with_key_and_anchor() -> None:
    """An untouched trail verifies, with or without key and anchor, as lines or as values."""
    trail = Trail("fraud", KEY)
    lines = write(trail, 5)
    verdict = verify([line + b"\n" for line in lines], KEY.public_key(), [trail.head()])
    assert (verdict.outcome, verdict.head, verdict.signed) == (Exit.OK, trail.head(), 5)
    assert verify(lines).outcome == Exit.OK
    assert verify([]).outcome == Exit.MISSING


@settings(max_examples=200)
@given(st.data())
def test_any_flipped_bit_is_found(data: st.DataObject) -> None:
    """No single bit of a signed trail can change unseen."""
    lines = write(Trail("fraud", KEY), 3)
    i = data.draw(st.integers(0, 2))
    at = data.draw(st.integers(0, len(lines[i]) - 1))
    bit = data.draw(st.integers(0, 7))
    raw = bytearray(lines[i])
    raw[at] ^= 1 << bit
    lines[i] = bytes(raw)
    verdict = verify(lines, KEY.public_key())
    assert verdict.outcome in (Exit.BROKEN, Exit.BAD_SIGNATURE)
    assert verdict.where.startswith(f"record {i + 1}:")
    assert verdict.head.seq == i


def test_changed_value_is_broken_with_both_hashes() -> None:
    """A changed detail shows the record's place, the hash it should have and the one it has."""
    lines = write(Trail("fraud"), 3)
    lines[1] = lines[1].replace(b"linear", b"forest")
    verdict = verify(lines)
    assert (verdict.outcome, verdict.where) == (Exit.BROKEN, "record 2: hash")
    assert verdict.expected != verdict.got == json.loads(lines[1])["hash"]


@pytest.mark.parametrize("gone", [0, 1])
def test_deleted_record_is_broken(gone: int) -> None:
    """A record that is missing shows at the place of the next one."""
    lines = write(Trail("fraud"), 3)
    del lines[gone]
    verdict = verify(lines)
    assert (verdict.outcome, verdict.where) == (Exit.BROKEN, f"record {gone + 1}: seq")
    assert (verdict.expected, verdict.got) == (str(gone + 1), str(gone + 2))


def test_record_of_another_trail_is_broken() -> None:
    """A record taken from another trail does not fit, even with the right number."""
    lines, others = write(Trail("fraud"), 2), write(Trail("clicks"), 2)
    assert verify([lines[0], others[1]]).where == "record 2: trail"


def test_cut_tail_needs_the_anchor() -> None:
    """A cut trail looks whole by itself and is truncated beside an anchor."""
    trail = Trail("fraud", KEY)
    lines = write(trail, 5)[:3]
    assert verify(lines, KEY.public_key()).outcome == Exit.OK
    verdict = verify(lines, KEY.public_key(), [trail.head()])
    assert (verdict.outcome, verdict.where) == (Exit.TRUNCATED, "end")
    assert (verdict.expected, verdict.got) == ("record 5", "record 3")


def test_rewritten_trail_is_broken_at_the_anchor() -> None:
    """Without signatures a trail can be written anew; the anchor shows it."""
    trail = Trail("fraud")
    write(trail, 2)
    rewritten = [
        Trail("fraud").record("updated", at_ms=0, cause="x", actor="x", model="x") for _ in range(1)
    ]
    assert verify(rewritten).outcome == Exit.OK
    first = Head(1, json.loads(write(Trail("fraud"), 1)[0])["hash"])
    verdict = verify(rewritten, anchors=[first])
    assert (verdict.outcome, verdict.where) == (Exit.BROKEN, "record 1: anchor")


@pytest.mark.parametrize("key", [FOREIGN, None])
def test_foreign_or_missing_signature_is_told_apart(key: Ed25519PrivateKey | None) -> None:
    """A trail that holds together but is not signed by the key has a bad signature."""
    verdict = verify(write(Trail("fraud", key), 2), KEY.public_key())
    assert (verdict.outcome, verdict.where) == (Exit.BAD_SIGNATURE, "record 1: sig")


def test_signature_changes_neither_state_nor_hash() -> None:
    """A trail with a key and one without hold the same state after the same records."""
    signed, unsigned = Trail("fraud", KEY), Trail("fraud")
    with_sig, without = write(signed, 3)[-1], write(unsigned, 3)[-1]
    assert signed.digest() == unsigned.digest()
    assert {k: v for k, v in json.loads(with_sig).items() if k != "sig"} == json.loads(without)


def test_restored_trail_goes_on_with_the_same_bytes() -> None:
    """A trail restored from a state writes what the other one writes."""
    first, second = Trail("fraud", KEY), Trail("fraud", KEY)
    write(first, 3)
    second.restore(first.state())
    assert write(second, 2) == write(first, 2)
    assert second.digest() == first.digest()
    with pytest.raises(StateError, match="expected a state of 'clicks', got 'fraud'"):
        Trail("clicks").restore(first.state())


def test_refused_record_does_not_move_the_chain() -> None:
    """A detail that cannot be written, or hides a fixed field, leaves the head where it was."""
    trail = Trail("fraud")
    common = {"at_ms": 0, "cause": "x", "actor": "x", "model": "x"}
    with pytest.raises(TrailError, match="may not be named hash, seq"):
        trail.record("updated", **common, detail={"seq": 1, "hash": ""})
    with pytest.raises(CanonicalError):
        trail.record("updated", **common, detail={"raw": b""})
    assert trail.head() == Head(0, GENESIS)


def test_anchor_is_read_back() -> None:
    """An anchor holds the head, and its signature is checked."""
    trail = Trail("fraud", KEY)
    write(trail, 3)
    raw = make_anchor("fraud", trail.head(), KEY)
    assert read_anchor(raw, KEY.public_key()) == trail.head()
    with pytest.raises(TrailError, match="audit anchor: sig"):
        read_anchor(raw, FOREIGN.public_key())
    with pytest.raises(TrailError, match="audit anchor: form"):
        read_anchor(b"{ }")
    with pytest.raises(TrailError, match="audit anchor"):
        read_anchor(b"{}")


def test_keys_are_read_from_pem_files(tmp_path: Path) -> None:
    """Ed25519 keys load from PEM; anything else is an error that names the file."""
    private, public, other = (tmp_path / n for n in ("key.pem", "public.pem", "other.pem"))
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    lines = write(Trail("fraud", load_private_key(private)), 2)
    assert verify(lines, load_public_key(public)).outcome == Exit.OK
    ec = generate_private_key(SECP256R1())
    other.write_bytes(ec.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(TrailError, match=r"other\.pem: expected an Ed25519 private key, got"):
        load_private_key(other)
    with pytest.raises(TrailError, match=r"missing\.pem: expected an Ed25519 public key"):
        load_public_key(tmp_path / "missing.pem")
    with pytest.raises(TrailError, match=r"public\.pem: expected an Ed25519 private key"):
        load_private_key(public)
