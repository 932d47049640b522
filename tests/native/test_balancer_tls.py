"""HTTPS and HTTP/2 of a load balancer from a file, with real clients."""

import http.server
import json
import re
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_balancer import NIMBO, TIMEOUT_S, balancer, curl, free_address

DEFAULT_POLICY = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"


class Target(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked, and takes what it is sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(body)

    def answer(self, body: bytes) -> None:
        said = {"path": self.path, "headers": dict(self.headers), "length": len(body), "sum": sum(body)}
        if self.path == "/large":
            answer = b"x" * (3 << 20)
        else:
            answer = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    # As many connections come at once as there are streams.
    request_queue_size = 1024


def certificate(folder: Path, name: str, *names: str, kind: str = "ec") -> dict[str, str]:
    """A certificate of its own for the names, and its key."""
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if kind == "ec" else ["-newkey", "rsa:2048"]
    alternatives = ",".join(f"DNS:{one}" for one in names)
    subprocess.run(
        ["openssl", "req", "-x509", *made, "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={alternatives}", "-keyout", key, "-out", chain],
        check=True,
        capture_output=True,
    )
    return {"chain": str(chain), "key": str(key)}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("certificates")
    return {
        "default": certificate(folder, "default", "default.example", kind="rsa"),
        "shop": certificate(folder, "shop", "*.shop.example"),
        "exact": certificate(folder, "exact", "www.shop.example"),
        "next": certificate(folder, "next", "default.example"),
    }


@pytest.fixture(scope="module")
def target() -> Iterator[int]:
    server = Server(("127.0.0.1", 0), Target)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def config(address: str, port: int, certificates: list[dict[str, str]], **listener: Any) -> dict[str, Any]:
    forward = {"forward": {"target_groups": [{"name": "all"}]}}
    return {
        "listeners": [{"address": address, "protocol": "HTTPS", "certificates": certificates, "default_action": forward, **listener}],
        "target_groups": {"all": {"targets": [{"id": "one", "ip": "127.0.0.1", "port": port}]}},
    }


def written(tmp_path: Path, what: dict[str, Any]) -> Path:
    file = tmp_path / "balancer.json"
    file.write_text(json.dumps(what))
    return file


def shake(address: str, *arguments: str) -> str:
    """What openssl says of a handshake, whether it succeeds or not."""
    done = subprocess.run(["openssl", "s_client", "-connect", address, *arguments], input="", capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.stdout + done.stderr


def test_requests_over_tls_in_both_versions_of_http(target: int, certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    address = free_address()
    what = config(address, target, [certificates["default"]])
    what["attributes"] = {"x_amzn_tls_version_and_cipher_suite": True}
    with balancer(written(tmp_path, what)) as (_, url):
        assert url == f"https://{address}"
        for version, expected in [("--http1.1", "1.1"), ("--http2", "2")]:
            for tls, name in [(["--tlsv1.3"], "TLSv1.3"), (["--tlsv1.2", "--tls-max", "1.2"], "TLSv1.2")]:
                said = curl("-k", version, *tls, "-w", "\n%{http_version}", f"{url}/a?b")
                answer, spoken = said.rsplit("\n", 1)
                headers = json.loads(answer)["headers"]
                assert spoken == expected
                assert headers["X-Forwarded-Proto"] == "https" and headers["X-Forwarded-Port"] == address.split(":")[1]
                assert headers["X-Amzn-Tls-Version"] == name
                assert headers["X-Amzn-Tls-Cipher-Suite"] in ("TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256")
                assert {name.lower(): value for name, value in headers.items()}["host"] == address
            # Bodies in both directions, their length said or not.
            body = tmp_path / "body"
            body.write_bytes(bytes(range(251)) * 8000)
            for framing in ([], ["-H", "Transfer-Encoding: chunked"] if version == "--http1.1" else ["-H", "Content-Length:"]):
                answer = json.loads(curl("-k", version, "--data-binary", f"@{body}", *framing, f"{url}/post"))
                assert (answer["length"], answer["sum"]) == (251 * 8000, sum(range(251)) * 8000)
            large = subprocess.run(["curl", "-sSk", version, "-m", str(TIMEOUT_S), f"{url}/large"], check=True, capture_output=True).stdout
            assert large == b"x" * (3 << 20)


def test_a_client_gets_the_certificate_of_the_name_that_it_asks_for(target: int, certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    address = free_address()
    inline = {member: Path(path).read_text() for member, path in certificates["exact"].items()}
    with balancer(written(tmp_path, config(address, target, [certificates["default"], certificates["shop"], inline]))):
        for name, subject in [("default.example", "default"), ("a.shop.example", "shop"), ("www.shop.example", "exact"), ("x.example", "default"), (None, "default")]:
            sni = ["-servername", name] if name else ["-noservername"]
            assert re.search(rf"subject=CN = {subject}\n", shake(address, *sni)), name
        port = address.split(":")[1]
        for name, which in [("www.shop.example", "exact"), ("b.shop.example", "shop")]:
            answer = curl("--cacert", certificates[which]["chain"], "--resolve", f"{name}:{port}:127.0.0.1", f"https://{name}:{port}/")
            assert json.loads(answer)["path"] == "/"


@pytest.mark.parametrize(
    ("policy", "accepted", "refused"),
    [
        ("ELBSecurityPolicy-TLS13-1-3-2021-06", ["-tls1_3"], ["-tls1_2"]),
        ("ELBSecurityPolicy-FS-1-2-Res-2020-10", ["-tls1_2"], ["-tls1_3"]),
        (DEFAULT_POLICY, ["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"], ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"]),
    ],
)
def test_a_policy_says_what_is_spoken(
    policy: str, accepted: list[str], refused: list[str], target: int, certificates: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    address = free_address()
    with balancer(written(tmp_path, config(address, target, [certificates["default"]], security_policy=policy))):
        assert re.search(r"Cipher is (TLS|ECDHE)", shake(address, *accepted))
        said = shake(address, *refused)
        assert "Cipher is (NONE)" in said and "alert" in said, said


def test_a_session_is_resumed_also_after_a_change(target: int, certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    address = free_address()
    file = written(tmp_path, config(address, target, [certificates["default"]]))
    ticket = tmp_path / "ticket"
    with balancer(file) as (process, url):
        for version in ("-tls1_2", "-tls1_3"):
            # A session of TLS 1.3 comes after the handshake: it is told with the answer.
            request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            first = subprocess.run(["openssl", "s_client", "-connect", address, version, "-sess_out", ticket, "-ign_eof"], input=request, capture_output=True, timeout=TIMEOUT_S)
            assert b"New, TLS" in first.stdout
            file.write_text(json.dumps(config(address, target, [certificates["default"]])))
            process.send_signal(signal.SIGHUP)
            again = shake(address, version, "-sess_in", str(ticket))
            assert "Reused, TLS" in again, again


def test_certificates_change_and_no_request_fails(target: int, certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    address = free_address()
    file = written(tmp_path, config(address, target, [certificates["default"]]))
    with balancer(file) as (process, url):
        failed: list[str] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                done = subprocess.run(["h2load", "-n200", "-c2", "-m10", f"{url}/"], capture_output=True, text=True, timeout=TIMEOUT_S)
                if "200 succeeded, 0 failed, 0 errored" not in done.stdout:
                    failed.append(done.stdout)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for which in ["next", "default"] * 3 + ["next"]:
                file.write_text(json.dumps(config(address, target, [certificates[which]])))
                process.send_signal(signal.SIGHUP)
                deadline = time.monotonic() + TIMEOUT_S
                while f"subject=CN = {which}" not in shake(address):
                    assert time.monotonic() < deadline
        finally:
            stop.set()
            asking.join()
        assert not failed, failed[0]


def test_targets_may_speak_tls_with_any_certificate(certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    server = Server(("127.0.0.1", 0), Target)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["shop"]["chain"], certificates["shop"]["key"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = free_address()
    what = config(address, server.server_port, [certificates["default"]])
    what["target_groups"]["all"] |= {"protocol": "HTTPS", "health_check": {"protocol": "HTTPS", "path": "/well"}}
    with balancer(written(tmp_path, what)) as (_, url):
        for version in ("--http1.1", "--http2"):
            assert json.loads(curl("-k", version, f"{url}/a"))["path"] == "/a"
        large = subprocess.run(["curl", "-sSk", "-m", str(TIMEOUT_S), f"{url}/large"], check=True, capture_output=True).stdout
        assert large == b"x" * (3 << 20)
    server.shutdown()
    server.server_close()


def test_many_streams_on_few_connections(target: int, certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    address = free_address()
    with balancer(written(tmp_path, config(address, target, [certificates["default"]]))) as (_, url):
        done = subprocess.run(["h2load", "-n1000", "-c4", "-m32", f"{url}/"], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert "1000 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout
        done = subprocess.run(["h2load", "-n40", "-c2", "-m5", f"{url}/large"], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert "40 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout


# The fields of a line, some of which may have spaces in quotes.
FIELD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')


def test_requests_are_written_down_as_aws_has_it(target: int, certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    address, log = free_address(), tmp_path / "access.log"
    what = config(address, target, [certificates["default"]])
    redirect = {"redirect": {"path": "/new", "status": 302}}
    what["listeners"][0]["rules"] = [{"priority": 7, "conditions": [{"path_pattern": ["/old"]}], "action": redirect}]
    what["access_log"] = {"file": str(log), "name": "app/shop/1"}
    file = written(tmp_path, what)

    def lines(file: Path, count: int) -> list[list[str]]:
        deadline = time.monotonic() + TIMEOUT_S
        while len(written := file.read_text().splitlines() if file.exists() else []) < count:
            assert time.monotonic() < deadline, written
        return [FIELD.findall(line) for line in written]

    port = address.split(":")[1]
    with balancer(file) as (process, url):
        curl("-k", "--http2", "-A", 'a "b"', "--resolve", f"default.example:{port}:127.0.0.1", f"https://default.example:{port}/a?b=c")
        curl("-k", "--http1.1", "-d", "12345", f"{url}/post")
        curl("-k", "--http1.1", f"{url}/old")
        curl("-k", "--http1.1", "-X", "TRACE", f"{url}/")
        # Workers hand their lines over in no order.
        by_path = {line[12].split("/")[3].partition(" ")[0]: line for line in lines(log, 4)}
        first, post, redirected, refused = (by_path[path] for path in ("a?b=c", "post", "old", ""))
        assert all(len(line) == 30 for line in (first, post, redirected, refused))
        assert (first[0], first[2], first[8:10], first[12:14]) == ("h2", "app/shop/1", ["200", "200"], [f'"GET https://default.example:{port}/a?b=c HTTP/2.0"', '"a \\"b\\""'])
        assert first[3].startswith("127.0.0.1:") and first[4] == f"127.0.0.1:{target}" and first[14:17] == ["TLS_AES_128_GCM_SHA256", "TLSv1.3", "all"]
        assert first[18] == '"default.example"' and first[20] == "0" and first[22] == '"forward"' and first[17].startswith('"Root=1-')
        assert post[0] == "https" and int(post[10]) > 5 and int(post[11]) > 100
        assert redirected[8:10] == ["302", "-"] and redirected[20] == "7" and redirected[22] == '"redirect"' and redirected[23] == f'"https://127.0.0.1:{port}/new"'
        assert refused[8:10] == ["405", "-"] and refused[4] == "-" and refused[5:8] == ["-1", "-1", "-1"]
        # The file is moved away, and made again.
        log.rename(tmp_path / "old.log")
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + TIMEOUT_S
        while not log.exists():
            assert time.monotonic() < deadline
        curl("-k", f"{url}/later")
        assert "/later" in lines(log, 1)[0][12]
        curl("-k", f"{url}/last")
    # What was not yet handed over is written at the end.
    assert "/last" in log.read_text()


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ({"security_policy": "ELBSecurityPolicy-2016-08"}, "ELBSecurityPolicy-2016-08"),
        ({"certificates": []}, "listeners[0].certificates: HTTPS needs one"),
        ({"certificates": [{"chain": "/nowhere.pem", "key": "/nowhere.key"}]}, "cannot read /nowhere.pem"),
        ({"protocol": "HTTP"}, "listeners[0].certificates: it goes with HTTPS alone"),
    ],
)
def test_what_cannot_be_served_is_told(listener: dict[str, Any], words: str, target: int, certificates: dict[str, dict[str, str]], tmp_path: Path) -> None:
    what = config(free_address(), target, [certificates["default"]])
    what["listeners"][0] |= listener
    outcome = subprocess.run([NIMBO, "balancer", "--config", str(written(tmp_path, what))], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert words in outcome.stderr, outcome.stderr
