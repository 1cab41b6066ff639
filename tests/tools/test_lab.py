from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from edgedeploy.on_device.conditions import snapshot
from edgedeploy.on_device.facts import board_summary
from edgedeploy.on_device.power import available_sources, open_ina3221, parse_pmic
from edgedeploy.plan import load_fleet
from tools.apt_sources import debian_sources
from tools.lab import LabError, VirtualBoard, sensors, system
from tools.lab.__main__ import main
from tools.lab.cable import Held
from tools.lab.fleet import client_key, write_access
from tools.lab.hardware import own_files, sample, sysfs_tree, write_hardware, write_value
from tools.lab.kinds import BOARDS, ROOTS
from tools.lab.lab import Lab
from tools.lab.network import Network, pick_network
from tools.lab.roots import root_folder, start_root

PI5, JETSON, PI4 = BOARDS["pi5"], BOARDS["jetson"], BOARDS["pi4"]


# -- sensors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOARDS.values(), ids=BOARDS)
def test_load_brings_heat_power_and_clock_and_rest_takes_them_away(kind: object) -> None:
    kind = BOARDS[str(getattr(kind, "name"))]  # noqa: B009 - parametrised values have no type
    rest = sensors.at_rest(kind)
    busy = sensors.advance(kind, rest, 2.0, 600)
    physics = kind.physics
    assert busy.temperature_c == pytest.approx(
        physics.ambient_c + physics.kelvin_per_w * (physics.idle_w + 2 * physics.per_core_w), abs=0.1
    )
    assert sensors.power_w(kind, 2.0) > sensors.power_w(kind, 0.0) == physics.idle_w
    assert sensors.clocks_khz(kind, rest)[0] == kind.cores[0].min_khz
    assert sensors.clocks_khz(kind, busy)[0] == kind.cores[0].max_khz
    cooled = sensors.advance(kind, busy, 0.0, 3600)
    assert cooled.temperature_c == pytest.approx(rest.temperature_c, abs=0.1)
    assert busy.averages[0] > busy.averages[2] > 0
    assert busy.used_j == pytest.approx(600 * sensors.power_w(kind, 2.0))


def test_heat_takes_its_time() -> None:
    rest = sensors.at_rest(PI4)
    soon = sensors.advance(PI4, rest, 4.0, 1)
    late = sensors.advance(PI4, rest, 4.0, 200)
    assert rest.temperature_c < soon.temperature_c < late.temperature_c - 10


def test_no_board_throttles_by_itself_at_full_load_but_for_the_phone() -> None:
    hot = {
        name: bool(sensors.advance(kind, sensors.at_rest(kind), kind.cpus, 3600).throttled)
        for name, kind in BOARDS.items()
    }
    assert hot == {name: name == "phone" for name in BOARDS}


def test_throttling_shows_now_and_is_remembered() -> None:
    hot = sensors.advance(PI4, sensors.at_rest(PI4), 1.0, 1, throttle=True)
    assert hot.throttled == 0x60006
    assert sensors.clocks_khz(PI4, hot) == [600_000] * 4
    assert hot.temperature_c == 80
    cool = sensors.advance(PI4, hot, 0.0, 60)
    assert cool.throttled == 0x60000


def test_the_pi5_draws_what_its_rails_add_up_to() -> None:
    text = sample(PI5, "pmic_read_adc.txt")
    assert text is not None
    for watts in (2.6, 7.3):
        assert parse_pmic(sensors.pmic_text(text, watts)) == pytest.approx(watts, rel=1e-6)


def test_the_pi4_has_no_power_converter_to_read() -> None:
    values = sensors.firmware_values(PI4, sensors.at_rest(PI4), sample(PI4, "pmic_read_adc.txt"))
    assert values["pmic_read_adc"] == 'error=1 error_msg="Command not registered"'
    assert values["get_throttled"] == "throttled=0x0"


def test_the_jetsons_module_rail_tells_its_power(tmp_path: Path) -> None:
    write_hardware(JETSON, tmp_path)
    tree = sysfs_tree(JETSON)
    for load in (0.0, 3.0):
        state = sensors.advance(JETSON, sensors.at_rest(JETSON), load, 1)
        for path, value in sensors.sysfs_values(JETSON, state, tree).items():
            write_value(tmp_path / path.lstrip("/"), value)
        _, watts = open_ina3221(str(tmp_path)).read() or (0, 0.0)
        assert watts == pytest.approx(sensors.power_w(JETSON, load), abs=0.05)


@pytest.mark.parametrize(
    ("name", "slowed"),
    [("jetson", {"cpufreq-cpu0": 3, "cpufreq-cpu4": 3}), ("x86", {"Processor": 3, "intel_powerclamp": 3})],
)
def test_a_throttled_board_says_so_where_its_kernel_would(tmp_path: Path, name: str, slowed: dict[str, int]) -> None:
    kind = BOARDS[name]
    write_hardware(kind, tmp_path)
    hot = sensors.advance(kind, sensors.at_rest(kind), 1, 1, throttle=True)
    for state, steps in ((hot, slowed), (sensors.advance(kind, hot, 0, 600), dict.fromkeys(slowed, 0))):
        for path, value in sensors.sysfs_values(kind, state, sysfs_tree(kind)).items():
            write_value(tmp_path / path.lstrip("/"), value)
        assert snapshot(str(tmp_path))["cooling"] == steps


def test_a_battery_drains_and_a_counter_wraps() -> None:
    phone, box = BOARDS["phone"], BOARDS["x86"]
    used = sensors.State(30, load=1.0, used_j=sensors.BATTERY_J / 2)
    tree = sysfs_tree(phone)
    values = sensors.sysfs_values(phone, used, tree)
    assert values["/sys/class/power_supply/battery/capacity"] == "28"
    assert int(values["/sys/class/power_supply/battery/current_now"]) < 0
    counter = "/sys/class/powercap/intel-rapl:0/energy_uj"
    tree = sysfs_tree(box)
    full = sensors.State(30, used_j=1.0)
    assert int(sensors.sysfs_values(box, full, tree)[counter]) < int(tree[counter])


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sources"), [("pi4", []), ("jetson", ["ina3221"]), ("phone", ["battery"]), ("x86", ["rapl"])]
)
def test_the_agent_finds_on_each_board_the_power_source_of_its_kind(
    tmp_path: Path, name: str, sources: list[str]
) -> None:
    write_hardware(BOARDS[name], tmp_path)
    assert available_sources(str(tmp_path)) == sources
    said = snapshot(str(tmp_path))
    assert said["governors"][0] == BOARDS[name].governor
    assert said["temperatures_c"]
    assert said["free_memory_bytes"] == BOARDS[name].memory_bytes
    if BOARDS[name].emulated:
        assert "asimd" in board_summary(str(tmp_path))["isa"]


def test_a_value_is_replaced_in_place(tmp_path: Path) -> None:
    path = tmp_path / "sys" / "temp"
    write_value(path, "100000")
    with path.open() as held:
        for value in ("9", "45000"):
            write_value(path, value)
            held.seek(0)
            assert held.read() == value + "\n"


def test_boards_are_as_bare_as_real_ones() -> None:
    assert not [name for name in ROOTS["phone-arm64"].packages if "python" in name or "ssh" in name]
    assert "usr/bin/python3*" in BOARDS["old"].without
    for name, kind in BOARDS.items():
        files = own_files(kind, host_key="key", public_keys="public")
        assert ("usr/bin/vcgencmd" in files) == (name in ("pi4", "pi5", "old"))
        assert ("usr/sbin/nvpmodel" in files) == (name == "jetson")
        assert ("usr/bin/getprop" in files) == (name == "phone")
        keys = [path for path in files if path.endswith("authorized_keys")]
        assert len(keys) == (0 if kind.link == "adb" else 2)
    private = own_files(PI4, host_key="key", public_keys="public")["etc/ssh/ssh_host_ed25519_key"]
    assert (private.content, private.mode) == ("key", 0o600)


def test_every_root_has_a_name_of_its_contents(tmp_path: Path) -> None:
    assert len({root_folder(tmp_path, name) for name in ROOTS}) == len(ROOTS)


def test_a_machine_that_is_no_debian_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.lab.roots.debian_sources", partial(debian_sources, folder=tmp_path / "apt"))
    with pytest.raises(
        LabError, match=r"names no source of Debian bookworm, from which the lab's boards are made; add"
    ):
        start_root(tmp_path, "phone-arm64")


# -- network -------------------------------------------------------------------------------------------------


def test_names_of_interfaces_fit_and_addresses_are_private() -> None:
    for name in BOARDS:
        assert len(f"{Network('fff').bridge}-{name}") <= 15
    assert Network("000").address(1) == "10.64.0.1"
    assert Network("fff").address(16) == "10.79.255.16"


def test_two_labs_never_share_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.lab.network.run", lambda argv: "")
    first = pick_network(tmp_path)
    assert pick_network(tmp_path) == first
    monkeypatch.setattr("tools.lab.network.run", lambda argv: f"7: edl    inet {first.address(1)}/24 scope global edl")
    assert pick_network(tmp_path) != first


def test_a_slow_wire_keeps_order_and_a_lossy_one_loses_its_share() -> None:
    slow = Held(0.5, 0.0)
    assert slow.wait_s(0.0) is None
    for moment, frame in ((0.0, b"a"), (0.1, b"b")):
        slow.take(frame, moment)
    assert slow.wait_s(0.1) == pytest.approx(0.4)
    assert slow.due(0.55) == [b"a"]
    assert slow.due(0.7) == [b"b"]
    chances = iter([0.1, 0.3, 0.29, 0.9])
    lossy = Held(0.0, 0.3, lambda: next(chances))
    for frame in (b"a", b"b", b"c", b"d"):
        lossy.take(frame, 0.0)
    assert lossy.due(0.0) == [b"b", b"d"]


def test_the_fleet_names_every_board_and_never_two_at_once(tmp_path: Path) -> None:
    network = Network("123")
    boards = [
        VirtualBoard(kind, 11 + number, tmp_path, network, tmp_path) for number, kind in enumerate(BOARDS.values())
    ]
    write_access(tmp_path, boards)
    fleet = load_fleet(tmp_path)
    assert [device.name for device in fleet.devices] == list(BOARDS)
    assert len({device.shares for device in fleet.devices}) == 1
    assert fleet.devices[0].shares
    assert {device.name for device in fleet.devices if not device.emulated} == {"x86", "systemd"}
    assert all(fleet.profile(device).title for device in fleet.devices)
    assert client_key(tmp_path).stat().st_mode & 0o777 == 0o600
    assert f"HostName {boards[0].address}" in (tmp_path / "ssh_config").read_text()
    assert (tmp_path / "known_hosts").read_text().startswith(f"{boards[0].address} ssh-ed25519 ")


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab that is down, in a folder of its own."""
    monkeypatch.setattr("tools.lab.__main__.Lab", lambda: Lab(tmp_path / "lab"))
    return tmp_path / "lab"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["up", "pi9"], "There is no board 'pi9': the lab knows pi4, pi5, jetson, x86, phone, old, systemd."),
        (["reboot", "pi4"], "The lab has no board 'pi4': it is down: `python -m tools.lab up` brings it up."),
        (["fill-disk", "pi4"], "The lab has no board 'pi4': it is down"),
        (["throttle", "pi4", "--release"], "The lab has no board 'pi4': it is down"),
        (["link", "pi4"], "Say one thing of the link"),
        (["link", "pi4", "--cut", "--delay-ms", "3"], "Say one thing of the link"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    nowhere: Path, capsys: pytest.CaptureFixture[str], argv: list[str], told: str
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith(told)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "argv", [["link", "pi4", "--loss", "2"], ["link", "pi4", "--delay-ms", "-1"], ["link", "pi4", "--rate-mbit", "x"]]
)
def test_numbers_have_bounds(nowhere: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    assert "is not a number from" in capsys.readouterr().err


def test_a_lab_that_is_down_stays_so(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert main(["down"]) == 0
    assert "The lab is down." in capsys.readouterr().out
    assert not nowhere.exists()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"needs root: run it with sudo\.$"):
        system.check_machine(emulated=False)


def test_a_missing_package_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name, path: None if "mmdeb" in name or "qemu" in name else name)
    with pytest.raises(LabError, match=r"lacks mmdebstrap: apt-get install mmdebstrap\.$"):
        system.check_machine(emulated=False)
    with pytest.raises(LabError, match=r"apt-get install mmdebstrap qemu-user-static\.$"):
        system.check_machine(emulated=True)


def test_a_machine_that_cannot_carry_systemd_says_so(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tools.lab.cgroups.MOUNT", tmp_path)
    monkeypatch.setattr("tools.lab.__main__.check_machine", lambda emulated: None)
    assert main(["check"]) == 2
    assert re.fullmatch(
        r"This machine mounts no control groups .*, which a board with systemd needs: .*\.\n", capsys.readouterr().err
    )


def test_a_program_that_fails_or_is_missing_is_told() -> None:
    with pytest.raises(LabError, match=r"^`ls /no/such/file` failed: .*No such file"):
        system.run(["ls", "/no/such/file"])
    with pytest.raises(LabError, match=r"`no-such-program` is not on this machine: apt-get install no-such-program"):
        system.run(["no-such-program"])
    with pytest.raises(LabError, match=r"did not end within 0\.1 s"):
        system.run(["sleep", "5"], timeout_s=0.1)


def test_a_lab_that_is_busy_says_so(tmp_path: Path) -> None:
    with (
        Lab(tmp_path).locked(patient=False),
        pytest.raises(LabError, match=r"Another run is bringing the lab in .* up"),
    ):
        Lab(tmp_path).up()


def test_a_lab_that_does_not_come_up_for_its_tests_is_not_theirs_to_take_down_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"), Lab(tmp_path).in_use():
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "users"}
