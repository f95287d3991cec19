"""The recipe of docs/audit.md for a time-stamping authority, with one made of openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from stream.state.anchors import FILE
from tests.support.tools import program

PAGE = Path(__file__).parents[4] / "docs" / "audit.md"
AUTHORITY = """
[req]
distinguished_name = name
[name]
[for_ca]
basicConstraints = critical, CA:true
[for_tsa]
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = one
[one]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
"""
MAKE = """
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config tsa.cnf"
openssl req -x509 $key -keyout ca.key -out tsa-ca.pem -subj /CN=ca -extensions for_ca
openssl req $key -keyout tsa.key -out tsa.csr -subj /CN=tsa
openssl x509 -req -in tsa.csr -CA tsa-ca.pem -CAkey ca.key -CAcreateserial -out tsa.pem \
    -extfile tsa.cnf -extensions for_tsa
"""
REPLY = "openssl ts -reply -config tsa.cnf -queryfile head.tsq -out head.tsr"


def recipe() -> list[str]:
    """The commands of the page, that of the authority's address done by one of our own."""
    [block] = [part for part in PAGE.read_text().split("```") if "openssl ts -query" in part]
    lines = block.removeprefix("sh\n").splitlines()
    return [REPLY if line.startswith("curl") else line for line in lines if "millrace" not in line]


def shell(lines: str, where: Path) -> int:
    """The status of a shell that runs these, up to the first that fails."""
    done = subprocess.run(
        ["bash", "-ec", lines], cwd=where, capture_output=True, text=True, check=False
    )
    print(done.stderr)
    return done.returncode


def test_a_time_stamp_is_of_the_head_and_of_no_other(ran: Path, tmp_path: Path) -> None:
    """What the authority has signed verifies with the head, and with nothing else."""
    program("openssl", "openssl")
    shutil.copy(ran / "state" / FILE, tmp_path)
    (tmp_path / "tsa.cnf").write_text(AUTHORITY)
    assert shell(MAKE, tmp_path) == 0
    lines = recipe()
    assert shell("\n".join(lines), tmp_path) == 0
    head = tmp_path / "head.json"
    assert head.read_bytes().splitlines() == (tmp_path / FILE).read_bytes().splitlines()[-1:]
    head.write_bytes(head.read_bytes().replace(b'"anchor":', b'"anchor":1'))
    assert shell(lines[-1], tmp_path) != 0
