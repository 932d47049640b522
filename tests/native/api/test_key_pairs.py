"""Key pairs, checked with OpenSSL and OpenSSH."""

import base64
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def run(*command: str, data: bytes = b"") -> bytes:
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


def colons(digest: str) -> str:
    return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def public_key(ec2: Any, name: str) -> list[str]:
    [pair] = ec2.describe_key_pairs(KeyNames=[name], IncludePublicKey=True)["KeyPairs"]
    return pair["PublicKey"].split()


def test_an_rsa_pair_is_made_with_amazons_fingerprint(ec2: Any, tmp_path: Path) -> None:
    tags = [{"Key": "for", "Value": "test"}]
    made = ec2.create_key_pair(KeyName="rsa", TagSpecifications=[{"ResourceType": "key-pair", "Tags": tags}])
    assert made["KeyMaterial"].startswith("-----BEGIN RSA PRIVATE KEY-----\n")
    der = run("openssl", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER", data=made["KeyMaterial"].encode())
    assert made["KeyFingerprint"] == colons(hashlib.sha1(der).hexdigest())
    file = tmp_path / "key.pem"
    file.write_text(made["KeyMaterial"])
    file.chmod(0o600)
    assert public_key(ec2, "rsa")[:2] == run("ssh-keygen", "-y", "-f", str(file)).decode().split()[:2]
    [pair] = ec2.describe_key_pairs(KeyPairIds=[made["KeyPairId"]])["KeyPairs"]
    assert (pair["KeyName"], pair["KeyType"], pair["Tags"]) == ("rsa", "rsa", tags)
    assert pair["KeyFingerprint"] == made["KeyFingerprint"] and "PublicKey" not in pair and pair["CreateTime"]


def test_an_ed25519_pair_is_made(ec2: Any, tmp_path: Path) -> None:
    made = ec2.create_key_pair(KeyName="ed", KeyType="ed25519", KeyFormat="pem")
    file = tmp_path / "key.pem"
    file.write_text(made["KeyMaterial"])
    file.chmod(0o600)
    line = run("ssh-keygen", "-y", "-f", str(file)).decode().split()
    assert public_key(ec2, "ed") == [*line[:2], "ed"]
    assert made["KeyFingerprint"] == base64.b64encode(hashlib.sha256(base64.b64decode(line[1])).digest()).decode()


@pytest.fixture
def keygen(tmp_path: Path) -> Callable[..., str]:
    def make(*options: str) -> str:
        file = tmp_path / f"made{len(list(tmp_path.iterdir()))}"
        run("ssh-keygen", "-q", "-N", "", "-C", "somebody@there", "-f", str(file), *options)
        return str(file)

    return make


def test_an_rsa_key_is_imported_in_each_format(ec2: Any, keygen: Callable[..., str]) -> None:
    file = keygen("-t", "rsa", "-b", "2048")
    line = Path(f"{file}.pub").read_bytes()
    der = run("openssl", "pkey", "-pubin", "-outform", "DER", data=run("ssh-keygen", "-e", "-m", "PKCS8", "-f", f"{file}.pub"))
    rfc4716 = run("ssh-keygen", "-e", "-m", "RFC4716", "-f", f"{file}.pub")
    for name, material in [("line", line), ("rfc4716", rfc4716), ("der", base64.b64encode(der))]:
        imported = ec2.import_key_pair(KeyName=name, PublicKeyMaterial=material)
        assert imported["KeyFingerprint"] == colons(hashlib.md5(der).hexdigest()), name
        assert public_key(ec2, name) == [*line.decode().split()[:2], name]


def test_an_ed25519_key_is_imported(ec2: Any, keygen: Callable[..., str]) -> None:
    line = Path(f"{keygen('-t', 'ed25519')}.pub").read_bytes()
    imported = ec2.import_key_pair(KeyName="imported ed", PublicKeyMaterial=line)
    blob = base64.b64decode(line.split()[1])
    assert imported["KeyFingerprint"] == base64.b64encode(hashlib.sha256(blob).digest()).decode()


def test_keys_of_other_kinds_and_sizes_are_refused(ec2: Any, keygen: Callable[..., str], refused: Callable[..., str]) -> None:
    for options in [("-t", "ecdsa"), ("-t", "rsa", "-b", "3072")]:
        line = Path(f"{keygen(*options)}.pub").read_bytes()
        refused("InvalidKey.Format", ec2.import_key_pair, KeyName="x", PublicKeyMaterial=line)
    for material in [b"", b"ssh-rsa AAAA", b"\xff\xfe", b"ssh-ed25519", b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAA"]:
        refused("InvalidKey.Format", ec2.import_key_pair, KeyName="x", PublicKeyMaterial=material)


def test_names_are_had_once(ec2: Any, refused: Callable[..., str]) -> None:
    ec2.create_key_pair(KeyName="once", KeyType="ed25519")
    refused("InvalidKeyPair.Duplicate", ec2.create_key_pair, KeyName="once", KeyType="ed25519")
    ec2.delete_key_pair(KeyName="once")
    refused("InvalidKeyPair.NotFound", ec2.describe_key_pairs, KeyNames=["once"])
    # What is not there needs not be deleted.
    ec2.delete_key_pair(KeyName="once")
    ec2.create_key_pair(KeyName="once", KeyType="ed25519")
    ec2.get_waiter("key_pair_exists").wait(KeyNames=["once"], WaiterConfig={"Delay": 1, "MaxAttempts": 2})


def test_what_is_wrong_with_a_pair_is_told(ec2: Any, refused: Callable[..., str]) -> None:
    refused("UnsupportedOperation", ec2.create_key_pair, KeyName="putty", KeyFormat="ppk")
    refused("InvalidParameterValue", ec2.create_key_pair, KeyName="dsa", KeyType="dsa")
    refused("InvalidParameterValue", ec2.create_key_pair, KeyName="naïve")
    refused("InvalidParameterValue", ec2.create_key_pair, KeyName="x" * 256)
    refused("InvalidKeyPair.NotFound", ec2.describe_key_pairs, KeyPairIds=["key-00000000000000000"])
    refused("MissingParameter", ec2.delete_key_pair)


def test_pairs_are_found_by_name_and_tag(ec2: Any) -> None:
    tags = [{"ResourceType": "key-pair", "Tags": [{"Key": "team", "Value": "blue"}]}]
    made = ec2.create_key_pair(KeyName="to be found", KeyType="ed25519", TagSpecifications=tags)
    for name, value in [("key-name", "to be*"), ("tag:team", "blue"), ("fingerprint", made["KeyFingerprint"]), ("key-pair-id", made["KeyPairId"])]:
        found = ec2.describe_key_pairs(Filters=[{"Name": name, "Values": [value]}])["KeyPairs"]
        assert [pair["KeyName"] for pair in found] == ["to be found"], name
