"""How small nimbo serve --simulate is, and how soon it answers: people start one for each of their tests."""

import statistics
import time

from server import Server

ROUNDS = 5
UP_S_MAX = 0.2
RSS_KIB_MAX = 40 << 10


def rss_kib(process: int) -> int:
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def test_it_is_small_and_answers_soon() -> None:
    up_s, rss = [], []
    for _ in range(ROUNDS):
        started = time.monotonic()
        with Server("--simulate") as server:
            up_s.append(time.monotonic() - started)
            ec2 = server.client("ec2")
            ec2.run_instances(ImageId=ec2.describe_images()["Images"][0]["ImageId"], MinCount=10, MaxCount=10)
            ec2.describe_instances()
            rss.append(rss_kib(server.process.pid))
    print(f"up after {statistics.median(up_s) * 1000:.0f} ms, {statistics.median(rss) / 1024:.1f} MiB")
    assert statistics.median(up_s) < UP_S_MAX
    assert statistics.median(rss) < RSS_KIB_MAX
