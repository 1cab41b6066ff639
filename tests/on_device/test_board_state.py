"""Facts and conditions: read where the board tells, left open where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.on_device import conditions, facts
from edgedeploy.on_device.children import count_oom_kills, judge_end
from tests.on_device.test_power import lay

ARM = "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp\n\nprocessor\t: 1\nFeatures\t: fp asimd crc32\n"
X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 hypervisor avx512_vnni\n"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "parent", "emulated"),
    [
        ("aarch64", ARM, "/usr/sbin/sshd", False),
        ("aarch64", X86, "", True),
        ("armv7l", X86, "", True),
        ("x86_64", X86, "", False),
        ("x86_64", X86.replace("AMD EPYC", "QEMU Virtual CPU version 2.5+"), "", False),
        ("x86_64", "model name\t: QEMU Virtual CPU version 2.5+\nflags\t\t: fpu sse2\n", "", True),
        ("aarch64", ARM, "/usr/bin/qemu-aarch64-static", True),
        ("aarch64", ARM, "/usr/bin/qemu-ga", False),
        ("s390x", "vendor_id       : IBM/S390\n", "", False),
    ],
)
def test_emulation_is_told_from_a_virtual_machine(machine: str, cpuinfo: str, parent: str, emulated: bool) -> None:
    assert facts.parse_emulated(machine, cpuinfo, parent) is emulated


def test_only_what_every_core_has_is_a_feature() -> None:
    assert facts.parse_isa(ARM) == ["asimd", "crc32"]
    assert facts.parse_isa(X86) == ["avx2", "avx512_vnni"]
    assert facts.parse_isa("") == []


def test_an_empty_board_tells_nothing(tmp_path: Path) -> None:
    assert conditions.snapshot(str(tmp_path)) == {
        "governors": [],
        "frequencies_mhz": [],
        "temperatures_c": {},
        "throttled": None,
        "cooling": {},
        "load_1m": None,
        "free_memory_bytes": None,
        "battery_percent": None,
        "charging": None,
    }


def test_a_snapshot_of_a_board_that_tells_all(tmp_path: Path) -> None:
    files = {f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "ondemand" for core in (0, 1, 10, 2)}
    files |= {
        f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": str(core * 100_000 + 600_000)
        for core in (0, 1, 10, 2)
    }
    files |= {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "48312",
        "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
        "sys/class/thermal/thermal_zone1/temp": "-256000",
        "sys/class/thermal/thermal_zone2/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone2/temp": "50000",
        "sys/class/thermal/cooling_device0/type": "pwm-fan",
        "sys/class/thermal/cooling_device0/cur_state": "4",
        "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
        "sys/class/thermal/cooling_device1/cur_state": "0",
        "sys/class/thermal/cooling_device2/type": "Processor",
        "sys/class/thermal/cooling_device2/cur_state": "3",
        "sys/class/thermal/cooling_device3/type": "Processor",
        "sys/class/thermal/cooling_device3/cur_state": "0",
        "sys/class/thermal/cooling_device4/type": "cpu-throttle-alert",
        "sys/class/thermal/cooling_device4/cur_state": "1",
        "sys/class/thermal/cooling_device5/type": "intel_powerclamp",
        "sys/class/thermal/cooling_device5/cur_state": "-1",
        "sys/class/thermal/cooling_device6/type": "thermal-cpufreq-0",
        "sys/class/power_supply/battery/type": "Battery",
        "sys/class/power_supply/battery/capacity": "81",
        "sys/class/power_supply/battery/status": "Full",
        "proc/loadavg": "0.52 0.58 0.59 1/977 12345",
        "proc/meminfo": "MemTotal:        3884412 kB\nMemAvailable:    3000000 kB",
        "usr/bin/vcgencmd": "#!/bin/sh\n[ $1 = get_throttled ] && echo throttled=0x50005",
    }
    lay(tmp_path, files)
    (tmp_path / "usr/bin/vcgencmd").chmod(0o755)
    assert conditions.snapshot(str(tmp_path)) == {
        "governors": ["ondemand"] * 4,
        "frequencies_mhz": [600.0, 700.0, 800.0, 1600.0],
        "temperatures_c": {"cpu-thermal": 48.312, "cpu-thermal 2": 50.0},
        "throttled": 0x50005,
        "cooling": {"cpufreq-cpu0": 0, "Processor": 3, "cpu-throttle-alert": 1, "intel_powerclamp": 0},
        "load_1m": 0.52,
        "free_memory_bytes": 3_000_000 * 1024,
        "battery_percent": 81.0,
        "charging": True,
    }


def test_a_tool_that_fails_tells_nothing(tmp_path: Path) -> None:
    lay(tmp_path, {"usr/bin/vcgencmd": "#!/bin/sh\necho throttled=0x0\nexit 3"})
    (tmp_path / "usr/bin/vcgencmd").chmod(0o755)
    assert conditions.snapshot(str(tmp_path))["throttled"] is None


@pytest.mark.parametrize("text", ["", "error=1", "throttled=yes", "throttled=0x"])
def test_no_bits_are_no_zero(text: str) -> None:
    assert conditions.parse_throttled(text) is None


def test_the_device_tree_names_the_board(tmp_path: Path) -> None:
    lay(tmp_path, {"sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0", "proc/cpuinfo": ARM})
    told = facts.board_facts(str(tmp_path / "store"), lambda: {"onnxruntime": "1.0"}, str(tmp_path))
    assert told["model_name"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert told["runtimes"] == {"onnxruntime": "1.0"}
    assert told["word_bits"] in (32, 64)
    assert told["total_bytes"] > 0


@pytest.mark.parametrize(
    ("status", "stderr", "killed_for_memory", "expected"),
    [
        (-9, "", True, ("out_of_memory", "the kernel killed the process for want of memory")),
        (-9, "", False, ("crashed", "killed by SIGKILL")),
        (-11, "INFO: fine\nlast words\n", False, ("crashed", "killed by SIGSEGV: last words")),
        (-11, "", True, ("crashed", "killed by SIGSEGV")),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n", False,
         ("out_of_memory", "what():  std::bad_alloc")),
        (1, "Traceback\nMemoryError\n", False, ("out_of_memory", "MemoryError")),
        (3, "", False, ("crashed", "exit code 3")),
        (-64, "", False, ("crashed", "killed by SIGRTMAX")),
    ],
)  # fmt: skip
def test_how_a_worker_ended(status: int, stderr: str, killed_for_memory: bool, expected: tuple[str, str]) -> None:
    assert judge_end(status, stderr, killed_for_memory) == expected


def test_the_kernel_counts_its_kills() -> None:
    assert count_oom_kills("pgfault 12\noom_kill 3\nnuma_hit 1\n") == 3
    assert count_oom_kills("pgfault 12\n") == 0
