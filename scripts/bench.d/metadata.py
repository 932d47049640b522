"""How many milliseconds requests for metadata take, as a guest that asks anew for each: a line for each. Run by network.py, in a guest's namespace."""

import sys
import time
from http.client import HTTPConnection

METADATA = "169.254.169.254"
PATIENCE_S = 10


def ask(method: str, path: str, headers: dict[str, str]) -> bytes:
    connection = HTTPConnection(METADATA, timeout=PATIENCE_S)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, f"{method} {path}: {answer.status} {body!r}"
    connection.close()
    return body


def main() -> None:
    token = ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "600"}).decode()
    for _ in range(int(sys.argv[1])):
        started = time.perf_counter()
        ask("GET", "/latest/meta-data/instance-id", {"X-aws-ec2-metadata-token": token})
        print((time.perf_counter() - started) * 1000)


main()
