"""The lab's boards do what real ones do, seen from outside by SSH and adb."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgedeploy.errors import CommandFailed, TransportError
from edgedeploy.plan import load_fleet
from edgedeploy.transport import Transport, open_transport
from tools.lab import Lab, LabError, VirtualBoard

pytestmark = pytest.mark.lab

LONG_S = 60.0


@pytest.fixture
def pi4(lab: Lab) -> Iterator[VirtualBoard]:
    with lab.borrow("pi4") as board:
        yield board


def over_ssh(lab: Lab, name: str) -> Transport:
    return open_transport(load_fleet(lab.folder).device(name), lab.folder)


def ask(lab: Lab, name: str, command: str, *, check: bool = True) -> str:
    with over_ssh(lab, name) as ssh:
        return ssh.run(["sh", "-c", command], timeout_s=LONG_S, check=check).stdout.decode().strip()


def eventually(found: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (done := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return done


@pytest.mark.parametrize(
    ("name", "machine", "model"),
    [
        ("pi4", "aarch64", "Raspberry Pi 4 Model B"),
        ("pi5", "aarch64", "Raspberry Pi 5 Model B"),
        ("jetson", "aarch64", "NVIDIA Jetson Orin Nano"),
        ("x86", "x86_64", ""),
        ("old", "aarch64", "Raspberry Pi 4 Model B"),
    ],
)
def test_each_board_is_a_machine_of_its_own(lab: Lab, name: str, machine: str, model: str) -> None:
    about = "uname -m; hostname; cat /sys/firmware/devicetree/base/model 2>/dev/null; echo; ip -o -4 address; ps ax"
    with lab.borrow(name) as board:
        said, routes = ask(lab, name, about), ask(lab, name, "ip route")
    assert said.splitlines()[:2] == [machine, name]
    assert model in said
    assert f"inet {board.address}/24" in said
    assert len({each.address for each in lab.boards.values()}) == len(lab.boards)
    assert "sensor_daemon" not in said
    assert re.search(r"^ *1 .*/usr/sbin/init", said, re.MULTILINE)
    assert "default" not in routes


@pytest.mark.parametrize("name", ["pi4", "jetson", "x86"])
def test_boards_are_bare(lab: Lab, name: str) -> None:
    with lab.borrow(name):
        assert ask(lab, name, "python3 -c 'import sys; print(sys.version_info[:2])'") == "(3, 11)"
        assert ask(lab, name, "python3 -c 'import numpy'; echo $?") == "1"
        assert ask(lab, name, "python3 -m pip --version; echo $?") == "1"


def test_one_board_is_booted_by_systemd_and_by_it_alone(lab: Lab) -> None:
    about = "ps -o comm= -p 1; systemctl is-system-running; systemctl is-active ssh; systemctl --user is-system-running"
    setting = "/proc/sys/kernel/pid_max"
    with lab.borrow("systemd") as board:
        board.reboot()
        assert ask(lab, "systemd", about).split() == ["systemd", "running", "active", "running"]
        changed = board.run("/bin/sh", "-c", f"cat {setting} > {setting} && echo changed", check=False)
    assert changed == "", "this machine's own kernel is not the board's to set"


def test_the_old_board_has_no_python(lab: Lab) -> None:
    with lab.borrow("old"):
        assert ask(lab, "old", "command -v python3; echo $?") == "127"


@pytest.fixture
def phone(lab: Lab) -> Iterator[VirtualBoard]:
    with lab.borrow("phone") as board:
        yield board


def test_the_phone_speaks_adb_and_has_no_python(phone: VirtualBoard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    adb = ["adb", "-P", str(port)]
    serial = f"{phone.address}:{phone.port}"
    try:
        subprocess.run([*adb, "connect", serial], check=True, capture_output=True, timeout=LONG_S)
        said = subprocess.run(
            [*adb, "-s", serial, "shell", "id -u; uname -m; getprop ro.product.model; command -v python3 sshd; exit 7"],
            capture_output=True,
            text=True,
            timeout=LONG_S,
        )
    finally:
        subprocess.run([*adb, "kill-server"], check=True, capture_output=True, timeout=LONG_S)
    assert said.stdout.split("\n") == ["2000", "aarch64", "Pixel 8", ""]
    assert said.returncode == 7


def test_memory_runs_out_for_the_job_and_not_for_the_server(pi4: VirtualBoard, lab: Lab) -> None:
    before = pi4.group.oom_kills()
    with over_ssh(lab, "pi4") as ssh:
        total = int(ssh.run(["sed", "-n", "s/MemTotal: *//p", "/proc/meminfo"], timeout_s=LONG_S).stdout.split()[0])
        assert total * 1024 == pi4.kind.memory_bytes
        greedy = f"held = b'x' * {2 * pi4.kind.memory_bytes}"
        with pytest.raises(CommandFailed):
            ssh.run(["python3", "-c", greedy], timeout_s=LONG_S)
        assert ssh.run(["echo", "alive"], timeout_s=LONG_S).stdout == b"alive\n"
    assert pi4.group.oom_kills() > before


def test_sensors_follow_the_boards_own_load(pi4: VirtualBoard, lab: Lab) -> None:
    read = "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq /sys/class/thermal/thermal_zone0/temp"
    pi4.reboot()
    assert eventually(lambda: pi4.run("/bin/cat", "/proc/loadavg").startswith("0.0"), 10)
    _, calm_temperature = pi4.run("/bin/sh", "-c", read).split()

    def busy() -> None:
        # until it is told: on a busy machine a board gets little of a processor, and warms slowly
        script = "import os\nwhile not os.path.exists('/tmp/enough'): pass"
        with over_ssh(lab, "pi4") as ssh:
            ssh.run(["timeout", "60", "python3", "-c", script], timeout_s=2 * LONG_S, check=False)

    pi4.run("/bin/rm", "-f", "/tmp/enough")
    frequency = pi4.live / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    temperature = pi4.live / "sys/class/thermal/thermal_zone0/temp"
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(busy)
        try:
            assert eventually(lambda: frequency.read_text() == "1500000\n", 20)
            assert eventually(lambda: int(temperature.read_text()) > int(calm_temperature) + 500, 40)
        finally:
            pi4.run("/usr/bin/touch", "/tmp/enough")
        job.result()
    assert eventually(lambda: frequency.read_text() == "600000\n", 10)
    other = lab.board("pi5").live / "proc/loadavg"
    assert float((pi4.live / "proc/loadavg").read_text().split()[0]) > float(other.read_text().split()[0])


def test_a_reboot_is_one(pi4: VirtualBoard, lab: Lab) -> None:
    about = "cat /proc/sys/kernel/random/boot_id; cut -d' ' -f1 /proc/uptime"
    assert eventually(lambda: float(pi4.run("/bin/cat", "/proc/uptime").split()[0]) > 3, 10)
    boot_id, up_s = ask(lab, "pi4", f"{about}; echo kept > file; echo lost > /run/user-file || true; sync").split()
    started = time.monotonic()
    pi4.reboot()
    new_boot_id, new_up_s, kept = ask(lab, "pi4", f"{about}; cat file").split()
    assert (new_boot_id != boot_id, kept) == (True, "kept")
    assert float(new_up_s) <= time.monotonic() - started + 1
    assert up_s


def ping_ms(lab: Lab, board: VirtualBoard, count: int) -> list[float]:
    """Round-trip times from another board; those that got lost are missing."""
    with lab.borrow("x86") as other:
        said = other.run("/bin/ping", "-n", "-c", str(count), "-i", "0.02", "-W", "1", board.address, check=False)
    return [float(found) for found in re.findall(r"time=([\d.]+) ms", said)]


def test_a_link_is_late_lossy_cut_and_whole_again(pi4: VirtualBoard, lab: Lab) -> None:
    ping_ms(lab, pi4, 2)
    pi4.shape(delay_ms=50)
    assert min(ping_ms(lab, pi4, 5)) >= 100
    pi4.shape(loss=0.4)
    assert 5 < len(ping_ms(lab, pi4, 100)) < 75  # .36 of them return
    pi4.cut()
    assert ping_ms(lab, pi4, 3) == []
    pi4.restore()
    assert len(ping_ms(lab, pi4, 20)) >= 19
    assert min(ping_ms(lab, pi4, 5)) < 20


def test_a_link_carries_no_more_than_its_rate(pi4: VirtualBoard, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    pi4.shape(rate_mbit=8)
    with over_ssh(lab, "pi4") as ssh:
        started = time.monotonic()
        ssh.put(tmp_path / "file", "/tmp/file", timeout_s=LONG_S)
        assert time.monotonic() - started > 0.7  # 1 MiB takes 1.05 s at 8 Mbit/s
        started = time.monotonic()
        ssh.get("/tmp/file", tmp_path / "back", timeout_s=LONG_S, max_bytes=2 << 20)
        assert time.monotonic() - started > 0.7


def test_a_full_disk_is_full_and_full_of_names_too(pi4: VirtualBoard, lab: Lab) -> None:
    ask(lab, "pi4", "rm -f ~/file ~/another")  # an earlier run's file would give its own blocks back
    pi4.disk.fill()
    with pytest.raises(CommandFailed, match="No space left on device"):
        ask(lab, "pi4", "head -c 100000 /dev/zero > ~/file")
    pi4.disk.release()
    ask(lab, "pi4", "rm -f ~/file; head -c 100000 /dev/zero > ~/file")
    pi4.disk.fill_inodes()
    with pytest.raises(CommandFailed, match="No space left on device"):
        ask(lab, "pi4", "touch ~/another")
    pi4.disk.release()
    ask(lab, "pi4", "touch ~/another")


def test_storage_never_outgrows_what_it_is_given(pi4: VirtualBoard, lab: Lab) -> None:
    total, free = map(int, ask(lab, "pi4", "df -B1 --output=size,avail / | tail -n 1").split())
    assert free <= total <= pi4.kind.disk_bytes


def test_a_server_that_is_killed_comes_back(pi4: VirtualBoard, lab: Lab) -> None:
    with over_ssh(lab, "pi4") as ssh:
        pi4.kill_sshd()
        with pytest.raises(TransportError):
            ssh.run(["true"], timeout_s=LONG_S)
    pi4.wait()
    assert ask(lab, "pi4", "echo again") == "again"


def test_a_throttled_board_says_so_and_is_slow(pi4: VirtualBoard, lab: Lab) -> None:
    pi4.reboot()
    assert ask(lab, "pi4", "vcgencmd get_throttled") == "throttled=0x0"
    pi4.throttle()
    assert eventually(lambda: "0x60006" in (pi4.live / "vcio/get_throttled").read_text(), 10)
    assert ask(lab, "pi4", "vcgencmd get_throttled; vcgencmd measure_temp").split("\n") == [
        "throttled=0x60006",
        "temp=80.0'C",
    ]
    pi4.release_throttle()
    assert eventually(lambda: "0x60000" in (pi4.live / "vcio/get_throttled").read_text(), 10)


def test_up_again_leaves_boards_as_they_are_also_one_that_is_borrowed_and_off(lab: Lab) -> None:
    with lab.borrow("old") as board:
        boot_id = board.run("/bin/cat", "/proc/sys/kernel/random/boot_id")
        lab.up(patient=True)
        assert board.run("/bin/cat", "/proc/sys/kernel/random/boot_id") == boot_id
        board.stop()
        assert not board.running()
        with pytest.raises(LabError, match="old is off"):
            board.run("/bin/true")
        lab.up(patient=True)
        assert not board.running(), "it is another's, who may want it off"
    assert board.running()


def test_up_again_leaves_a_borrowed_boards_link_as_it_is(lab: Lab, pi4: VirtualBoard) -> None:
    pi4.shape(delay_ms=50)
    up_s = float(pi4.run("/bin/cat", "/proc/uptime").split()[0])
    lab.up(patient=True)
    assert min(ping_ms(lab, pi4, 5)) >= 100
    assert float(pi4.run("/bin/cat", "/proc/uptime").split()[0]) >= up_s
    pi4.cut()
    lab.up(patient=True)
    assert ping_ms(lab, pi4, 3) == []
