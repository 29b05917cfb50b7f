"""A signed head: `sign` on this machine and over MQTT, and what `verify` makes of it."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from support import FakeClock, sysfs_config, wait_until
from test_remote_commands import Operator
from test_verify import TABLE, exported, fill

from node.cli.main import main
from node.config.schema import OutboxTable
from node.outbox.outbox import Outbox
from node.outbox.reader import look_into
from node.outbox.signature import KEY_FILE
from node.outbox.store import FILE_NAME

CONFIG = '[node]\nname = "greenhouse"\n[mqtt]\nhost = "broker"\n[outbox]\nchain = true\n'
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[Outbox]:
    """A chained log of 12 readings."""
    made = Outbox(tmp_path, TABLE, clock)
    fill(made, clock, 4)
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path, outbox: Outbox, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the log; returns its exit code, output and errors."""
    (tmp_path / "node.toml").write_text(CONFIG)
    assert outbox.chain_head is not None

    def run(command: str, *words: str) -> tuple[int, str, str]:
        config = ["-c", str(tmp_path / "node.toml"), "--state-dir", str(tmp_path)]
        try:
            code = main([command, *config, *words])
        except SystemExit as end:
            code = int(str(end.code))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def key(run: Run, tmp_path: Path) -> str:
    """The file of the public key."""
    code, public, err = run("sign", "--public-key")
    assert (code, err) == (0, "")
    (tmp_path / "greenhouse.pub").write_text(public)
    return str(tmp_path / "greenhouse.pub")


@pytest.fixture
def signed(run: Run, key: str, tmp_path: Path) -> Path:
    """The file of a signed head, for the nonce 8f3c."""
    assert Path(key).exists(), "made with the pair"
    code, out, err = run("sign", "--nonce", "8f3c")
    assert (code, err) == (0, "")
    (tmp_path / "head.json").write_text(out)
    return tmp_path / "head.json"


def test_a_signature_is_right_by_another_implementation(signed, key):
    """By that of the package cryptography; and of no other text."""
    content = json.loads(signed.read_text())
    public = load_pem_public_key(Path(key).read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    signature = base64.b64decode(content["signature"])
    public.verify(signature, content["statement"].encode())
    with pytest.raises(InvalidSignature):
        public.verify(signature, content["statement"].replace("8f3c", "8f3d").encode())


def test_a_statement_names_the_head_the_time_and_the_nonce(signed, outbox):
    statement = json.loads(json.loads(signed.read_text())["statement"])
    seq, head = outbox.chain_head
    assert statement.pop("time").startswith("20")
    assert statement.pop("clock") in ("synced", "unsynced")
    assert len(statement.pop("key")) == 16
    assert statement == {
        "signs": "chain head",
        "node": "greenhouse",
        "stream": outbox.stream,
        "seq": seq,
        "hash": head.hex(),
        "nonce": "8f3c",
    }


def test_the_private_key_is_made_once_and_for_its_owner_alone(run, key, tmp_path):
    file = tmp_path / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("sign", "--public-key")[1] == Path(key).read_text()
    file.chmod(0o640)
    for words in (("--public-key",), ()):
        code, out, err = run("sign", *words)
        assert (code, out) == (1, "")
        assert "others than its owner may read it" in err


def test_a_log_and_an_export_lead_to_the_signed_head(run, key, signed, outbox, clock, tmp_path):
    """Also when they have gone on since; and the answer of MQTT does as it came."""
    fill(outbox, clock, 2)
    answer = {"command": "sign", "ok": True, **json.loads(signed.read_text())}
    signed.write_text(json.dumps(answer))
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, exported(outbox))))
    words = ("--signature", str(signed), "--key", key, "--nonce", "8f3c")
    for file in ((), (str(tmp_path / "history.jsonl"),)):
        code, out, err = run("verify", *words, *file)
        assert (code, err) == (0, "")
        assert out.startswith("signed by greenhouse with the key ")
        assert "for the nonce 8f3c\n" in out
        assert "18 readings as written" in out or "15 readings as written" in out
        assert "the hash that is known from elsewhere is among theirs" in out
    code, out, _ = run("verify", *words, "--json")
    assert (code, json.loads(out)["signature"]["nonce"]) == (0, "8f3c")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("8f3c", "8f3d"), "the signature was not made with the key "),
        (lambda text: text.replace('"signature":"', '"signature":"AAAA'), "not made with the key"),
        (lambda text: text.replace('"signature":"', '"signature":"!'), "signature is not base64"),
        (lambda text: "{}", "is not a signed head: "),
        (lambda text: "nonsense", "is not a signed head: "),
        (lambda text: "\0\xff", "cannot be read: 'utf-8' codec can't decode"),
    ],
)
def test_a_signature_that_is_not_right_is_refused(run, key, signed, change, problem):
    signed.write_text(change(signed.read_text()), encoding="latin-1")
    code, out, err = run("verify", "--signature", str(signed), "--key", key)
    assert (code, out) == (1, "")
    assert problem in err


def test_a_signature_of_another_key_nonce_or_log_is_not_taken(run, key, signed, outbox, tmp_path):
    words = ("--signature", str(signed), "--key", key)
    code, _, err = run("verify", *words, "--nonce", "another")
    assert (code, "answers the nonce 8f3c, and not another" in err) == (1, True)
    batches = exported(outbox)
    for batch in batches:
        batch["stream"] = "0123456789abcdef"
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, batches)))
    code, _, err = run("verify", *words, str(tmp_path / "history.jsonl"))
    assert (code, f"is of the stream {outbox.stream}, which is not in it" in err) == (1, True)
    (tmp_path / KEY_FILE).unlink()
    (tmp_path / "other.pub").write_text(run("sign", "--public-key")[1])
    code, _, err = run("verify", *words[:3], str(tmp_path / "other.pub"))
    assert (code, "was not made with the key" in err) == (1, True)
    code, _, err = run("verify", *words[:3], str(tmp_path / "node.toml"))
    assert (code, "this is not an Ed25519 public key in PEM" in err) == (1, True)
    for missing in (words[:2], words[2:], ("--nonce", "x")):
        code, _, err = run("verify", *missing)
        assert (code, "belong together" in err) == (2, True)


def test_readings_that_were_altered_since_do_not_lead_to_a_signed_head(
    run, key, signed, outbox, clock, tmp_path
):
    """Whoever has made all hashes again has no signature of them."""
    forged = tmp_path / "forged"
    other = Outbox(forged, TABLE, clock)
    fill(other, clock, 4)
    other.close()
    history = json.dumps({**exported(outbox)[0], "readings": []})
    readings = look_into(forged / FILE_NAME, lambda log: log.readings_after(0, 99, hashes=True))
    batch = {**json.loads(history), "readings": []}
    for reading in readings:
        item = {"seq": reading.seq, "sensor": "air", "time": "2026-01-01T00:00:00.000Z"}
        hashed = {"hash": reading.hash.hex()} if reading.hash else {}
        batch["readings"].append({**item, "clock": "synced", "temperature": 4, **hashed})
    (tmp_path / "history.jsonl").write_text(json.dumps(batch))
    code, out, _ = run(
        "verify", "--signature", str(signed), "--key", key, str(tmp_path / "history.jsonl")
    )
    assert code == 1
    assert "WRONG: the hash of reading 12 is " in out


def test_sign_says_what_is_missing(run, tmp_path, clock):
    code, out, err = run("sign")
    assert (code, out) == (1, "")
    assert "there is no key yet: `sudo sensor-node sign --public-key` makes one" in err
    code, _, err = run("sign", "--nonce", "a b")
    assert (code, "expected 1 to 128 letters, digits or any of +/=_.:-" in err) == (2, True)
    code, _, err = run("sign", "--state-dir", str(tmp_path / "nothing"))
    assert (code, "there is no log in " in err) == (1, True)
    code, _, err = run("sign", "--public-key", "--state-dir", str(tmp_path / "nothing"))
    assert (code, "a key cannot be written into " in err) == (1, True)
    plain = Outbox(tmp_path / "plain", OutboxTable(), clock)
    fill(plain, clock, 1)
    plain.close()
    code, _, err = run("sign", "--state-dir", str(tmp_path / "plain"))
    assert (code, "the log has no chained reading: set [outbox] chain = true" in err) == (1, True)


@pytest.mark.usefixtures("key")
def test_without_openssl_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = run("sign")
    assert (code, err) == (1, "the command openssl is missing: sudo apt install openssl\n")


def test_a_node_signs_its_head_for_who_asks_by_mqtt(
    broker, start_node, temperature_file, tmp_path, capsys
):
    """A real node and broker; its answer, checked against its log while the node runs."""
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="200ms")
    node = start_node(config + "\n[outbox]\nchain = true\n")
    operator = Operator(broker.port)
    try:
        refused = operator.ask("sign", b"8f3c")
        assert "there is no key yet" in refused["error"]
        assert main(["sign", "--public-key", "--state-dir", str(node.state_dir)]) == 0
        (tmp_path / "public").write_text(capsys.readouterr().out)
        assert "its payload must be a nonce: " in operator.ask("sign", b"two words")["error"]
        assert "its payload must be a nonce: " in operator.ask("sign")["error"]
        answer = operator.ask("sign", b"8f3c")
        assert answer["ok"]
        (tmp_path / "answer.json").write_text(json.dumps(answer))
        words = ["--signature", str(tmp_path / "answer.json"), "--key", str(tmp_path / "public")]
        wait_until(lambda: main(["verify", "--state-dir", str(node.state_dir), *words]) == 0)
        assert "signed by test with the key " in capsys.readouterr().out
    finally:
        operator.close()
