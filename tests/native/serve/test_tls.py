"""TLS, without which the server is not reached from elsewhere."""

import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from botocore.exceptions import SSLError
from server import TIMEOUT_S, Server, exported


def refused(*options: str) -> str:
    command = [os.environ["NIMBO"], "serve", "--simulate", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode in (1, 2), done
    return done.stderr


def test_a_server_with_an_authority_of_its_own(tmp_path: Path) -> None:
    authority = tmp_path / "tls" / "ca.pem"
    options = ("--simulate", "--state", str(tmp_path), "--tls-self-signed", "--tls-name", "lab.example")
    with Server(*options, listen="0.0.0.0:0") as server:
        assert server.url.startswith("https://0.0.0.0:")
        port = int(server.url.rpartition(":")[2])
        before = authority.read_bytes()
        server.url = f"https://127.0.0.1:{port}"
        assert len(server.client("ec2", verify=str(authority)).describe_vpcs()["Vpcs"]) == 1
        server.url = f"https://localhost:{port}"
        assert len(server.client("ec2", verify=str(authority)).describe_vpcs()["Vpcs"]) == 1
        with pytest.raises(SSLError):
            server.client("ec2").describe_vpcs()
        # As strictly as it can be checked, and for a name that the machine does not know.
        context = ssl.create_default_context(cafile=authority)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain, server_hostname="lab.example") as stream:
            assert stream.version() == "TLSv1.3"
            names = {name for kind, name in stream.getpeercert()["subjectAltName"] if kind == "DNS"}
            assert {"lab.example", "localhost"} <= names
        # What nimbo env says is enough for others.
        command = ["-m", "awscli", "ec2", "describe-vpcs", "--query", "length(Vpcs)", "--output", "text"]
        done = subprocess.run([sys.executable, *command], env={**os.environ, **exported("--state", str(tmp_path))}, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.stdout == "1\n", done.stderr
        # Who speaks in the clear is told so.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert (response.status, b"TLS" in response.read()) == (400, True)
    with Server(*options) as server:
        assert authority.read_bytes() == before
        server.client("ec2", verify=str(authority)).describe_regions()
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {"ca.pem": 0o600, "ca-key.pem": 0o600}


def test_a_server_with_somebodys_certificate(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*request, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=TIMEOUT_S)
    with Server("--simulate", "--tls-certificate", str(certificate), "--tls-key", str(key)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        server.client("ec2", verify=str(certificate)).describe_regions()
    assert "cannot read a key from" in refused("--listen", "127.0.0.1:0", "--tls-certificate", str(certificate), "--tls-key", str(certificate))
    assert "cannot read certificates from" in refused("--listen", "127.0.0.1:0", "--tls-certificate", "/nonexistent", "--tls-key", str(key))


def test_without_tls_it_is_not_reached_from_elsewhere() -> None:
    assert "that takes TLS: add --tls-self-signed" in refused("--listen", "0.0.0.0:0")
    assert "name one by --state" in refused("--listen", "127.0.0.1:0", "--tls-self-signed")


def test_who_does_not_finish_a_handshake_is_in_nobodys_way(tmp_path: Path) -> None:
    with Server("--simulate", "--state", str(tmp_path), "--tls-self-signed") as server:
        host, port = server.address.split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(200)]
        try:
            for number, stream in enumerate(slow):
                # Nothing; the beginning of a handshake; a handshake that is none.
                stream.sendall((b"", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x05hello")[number % 3])
            client = server.client("ec2", verify=str(tmp_path / "tls" / "ca.pem"))
            client.describe_regions()
            end = time.monotonic() + TIMEOUT_S
            for stream in slow:
                stream.settimeout(max(end - time.monotonic(), 0.01))
                try:
                    while stream.recv(1024):
                        pass
                except ConnectionResetError:
                    pass
            client.describe_regions()
        finally:
            for stream in slow:
                stream.close()
