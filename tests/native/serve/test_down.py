"""nimbo down: whatever a region had, and however its server ended, nothing of it is left, and what its volumes hold is."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import NIMBO
from region import Region
from server import TIMEOUT_S
from traces import own_network, traces


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
def region(network, tmp_path: Path) -> Iterator[Region]:
    # Its guests only begin to run: that is all that they can on any KVM.
    with Region(tmp_path, "--here", "--lan-interface", "lan0") as region:
        yield region


def launch(region: Region, image: str) -> str:
    launched = region.ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1)
    identity = launched["Instances"][0]["InstanceId"]
    region.wait("instance_running", InstanceIds=[identity])
    return identity


def test_nothing_is_left_of_a_region_whose_server_was_killed(network, tmp_path: Path, tiny_image: str) -> None:
    before = traces(tmp_path)
    with Region(tmp_path, "--here", "--lan-interface", "lan0") as region:
        image = region.image(tiny_image)
        identity = launch(region, image)
        region.kill()
        had = traces(tmp_path)
        public = {name for name in had if had[name] != before[name]}
        assert {"links", "routes", "proxies", "rules", "settings", "mounts", "processes", "files"} <= public, had
        done = region.down("--force")
        assert done.returncode == 0, done.stderr
        assert traces(tmp_path) == before
        # Once more there is nothing to do.
        done = region.down()
        assert (done.returncode, done.stdout) == (0, "nothing runs any more\n"), done.stderr
        region.start()
        seen = region.instance(identity)
        assert (seen["State"]["Name"], seen["StateReason"]["Code"]) == ("stopped", "Server.ScheduledStop")
        region.ec2.start_instances(InstanceIds=[identity])
        region.wait("instance_running", InstanceIds=[identity])
        # This time there is a server, which is ended first; another microVM is nobody's any more.
        done = region.down("--force")
        assert done.returncode == 0 and f"ending the server, process {region.server.process.pid}" in done.stdout, done.stderr
        assert region.server.process.wait() == 0
        assert traces(tmp_path) == before


def test_what_no_record_speaks_of_goes_too(region: Region, tmp_path: Path, tiny_image: str) -> None:
    launch(region, region.image(tiny_image))
    region.kill()
    (tmp_path / "state/store.redb").unlink()
    done = region.down()
    assert done.returncode == 0, done.stderr
    left = traces(tmp_path)
    assert not any(left[name] for name in ("mounts", "processes", "rules", "proxies", "files")), left


def test_a_process_that_still_serves_a_volume_ends_in_order(network: None, tmp_path: Path) -> None:
    folder, run = tmp_path / "volume", tmp_path / "run"
    path = run / "volumes/vol-0123456789abcdef0.sock"
    path.parent.mkdir(parents=True)
    subprocess.run([NIMBO, "volume", "create", folder, "--size", "64M"], check=True)
    serving = subprocess.Popen([NIMBO, "volume", "serve", folder, "--vhost-user", path], stdout=subprocess.PIPE)
    try:
        assert serving.stdout.readline()
        command = [NIMBO, "down", "--state", tmp_path / "state", "--run", run]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # Not by a signal: it has flushed what it had.
        assert serving.wait(TIMEOUT_S) == 0
    finally:
        serving.kill()
    assert not run.exists()


def test_where_no_server_was_nothing_is_made(network, tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    done = subprocess.run([NIMBO, "down", "--state", str(state), "--run", str(run)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "nothing runs any more\n"), done.stderr
    assert not state.exists() and not run.exists()
