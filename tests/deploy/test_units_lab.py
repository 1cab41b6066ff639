"""A board that systemd boots: its units are restarted, watched and recovered for as the documentation says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgedeploy.board.provision import provision
from edgedeploy.cli import main
from edgedeploy.deploy import SigningKey
from edgedeploy.plan import load_fleet
from edgedeploy.project import Project
from tests.deploy.releasing import Built
from tests.deploy.test_verbs import keep, measured
from tests.support.project import PLAN, write_project
from tests.tools.test_lab_boards import eventually

if TYPE_CHECKING:
    from tools.lab import Lab, VirtualBoard

pytestmark = [pytest.mark.lab, pytest.mark.fault, pytest.mark.timeout(300)]

NAME, USER = "systemd", "edge"
HOME = f"/home/{USER}"
ROOT, BEGUN = f"{HOME}/.edgedeploy", f"{HOME}/begun"
LOADED, HANGS, GO = f"{HOME}/loaded", f"{HOME}/hangs", f"{HOME}/go"
UNITS = "/etc/systemd/system"
FOR_ALL, FOR_USER = 'unit = "camera.service"', 'user_unit = "camera.service"'
DOCUMENT = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text("utf-8")

# It writes down the name of each model that it loads. What it does with the second one is the test's to say.
APPLICATION = f"""
import os, socket, sys, time
model = open("{ROOT}/current/model.onnx", "rb").read()
name = next(name for name in ("first", "second") if name.encode() in model)
behaviour = sys.argv[1] if name == "second" else "works"
if behaviour == "fails":
    sys.exit("no such layer")
if behaviour == "hangs":
    open("{HANGS}", "w").close()
    while not os.path.exists("{GO}"):
        time.sleep(0.05)
with open("{LOADED}", "a") as log:
    log.write(name + "\\n")
    log.flush()
    os.fsync(log.fileno())
if "NOTIFY_SOCKET" in os.environ:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(3600)
"""


def documented(path: str) -> str:
    """The content that docs/deploy.md gives for a file on the board, for this board's user."""
    [block] = re.findall(rf"^```\w+\n(?:#|//) {re.escape(path)}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return re.sub(r"\bpi\b", USER, block)


@dataclass(frozen=True)
class Camera:
    """The board, the project that deploys to it, and the application there."""

    board: VirtualBoard
    project: Project
    told: Callable[[], str]

    def deploy(self, variant: str, *, settings: str = FOR_ALL, code: int = 0) -> str:
        """Deploy with these settings; return what is said, on whichever stream."""
        quick = "pause_s = 0.1\nsteady_s = 0.01\nmax_slowdown = 1000\nkey = 'ours'\n"
        (self.project.folder / "edgedeploy.toml").write_text(f"{PLAN}\n[deploy]\n{quick}{settings}\n")
        assert main(["deploy", "--project", str(self.project.folder), "--device", NAME, "--variant", variant]) == code
        return self.told()

    def status(self) -> str:
        assert main(["status", "--project", str(self.project.folder), "--device", NAME]) == 0
        return self.told()

    def shell(self, script: str) -> str:
        """What a script prints on the board, which root runs past the network."""
        return self.board.run("/bin/sh", "-c", script, check=False).strip()

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.board.run("/bin/sh", "-c", f'mkdir -p {Path(path).parent} && printf %s "$1" > {path}', "sh", text)
        self.board.run("/bin/chmod", mode, path)

    def install(self, behaviour: str = "works", service: str = "Type=notify") -> None:
        """Install the application; `behaviour` is what it does with the second model."""
        self.write(f"{HOME}/camera.py", APPLICATION)
        run = f"[Service]\n{service}\nUser={USER}\nExecStart=/usr/bin/python3 {HOME}/camera.py {behaviour}\n"
        self.write(f"{UNITS}/camera.service", f"{run}[Install]\nWantedBy=multi-user.target\n")
        self.shell("systemctl daemon-reload; systemctl enable camera")

    def install_for_user(self, behaviour: str) -> None:
        """Install the application as a service of the user."""
        self.write(f"{HOME}/camera.py", APPLICATION)
        run = f"[Service]\nType=notify\nExecStart=/usr/bin/python3 {HOME}/camera.py {behaviour}\n"
        self.write(f"{HOME}/.config/systemd/user/camera.service", f"{run}[Install]\nWantedBy=default.target\n")
        systemctl = f"systemctl --user -M {USER}@"
        self.shell(f"chown -R {USER}: {HOME}/.config; {systemctl} daemon-reload; {systemctl} enable camera")

    def running(self, settings: str) -> bool:
        systemctl = f"systemctl --user -M {USER}@" if settings == FOR_USER else "systemctl"
        return self.shell(f"{systemctl} is-active camera") == "active"

    def may_restart(self) -> None:
        """Give the user who logs in the right to restart the unit, as the documentation says."""
        path = "/etc/polkit-1/rules.d/50-camera.rules"
        self.write(path, documented(path))

    def loaded(self, *models: str) -> bool:
        """Whether these models and no others were loaded, one after another; the last may be under way."""
        return eventually(lambda: len(self._loaded()) >= len(models), 10) and self._loaded() == list(models)

    def _loaded(self) -> list[str]:
        return self.shell(f"cat {LOADED}").split()

    def active(self) -> str:
        """The release that is active there, by its link alone."""
        return self.shell(f"readlink {ROOT}/current")


@pytest.fixture(scope="module")
def begun(lab: Lab) -> None:
    """The board with a runtime in a folder that the tests copy."""
    fleet = load_fleet(lab.folder)
    device = replace(fleet.device(NAME), root=BEGUN)
    with lab.borrow(NAME) as board:
        board.run("/bin/rm", "-rf", BEGUN)
        provision(device, fleet.profile(device), lab.folder, runtimes=["onnxruntime"])


@pytest.fixture
def camera(
    lab: Lab,
    begun: None,
    first: Built,
    second: Built,
    key: SigningKey,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Camera]:
    folder = write_project(tmp_path / "project", fleet=lab.fleet_file.read_text())
    project = Project(folder)
    variants = [keep(project, built, tmp_path) for built in (first, second)]
    project.store.set_current(variants)
    for variant in variants:
        project.store.save_report(replace(measured(variant, 1000.0), device=NAME))
    clean = f"""
        for unit in camera edgedeploy-recover; do systemctl disable --now $unit; done
        systemctl --user -M {USER}@ stop camera
        rm -rf {ROOT} {LOADED} {HANGS} {GO} {UNITS}/camera.service {UNITS}/edgedeploy-recover.service
        rm -rf {HOME}/.config /etc/polkit-1/rules.d/50-camera.rules /etc/sudoers.d/camera
        systemctl daemon-reload
        systemctl --user -M {USER}@ daemon-reload
        systemctl reset-failed
    """
    with lab.borrow(NAME) as board:
        board.run("/bin/sh", "-c", clean, check=False)
        board.run("/bin/cp", "-a", BEGUN, ROOT)
        try:
            yield Camera(board, project, lambda: "".join(capsys.readouterr()))
        finally:
            board.heal()
            board.run("/bin/sh", "-c", clean, check=False)


def test_a_unit_is_restarted_with_each_release(camera: Camera) -> None:
    """Each release restarts the real unit, which the user may do to it alone; the same again leaves it as it is."""
    camera.may_restart()
    camera.install()
    assert "release 1, first, is active" in camera.deploy("first")
    assert "release 2, second, is active" in camera.deploy("second")
    assert camera.loaded("first", "second")
    pid = camera.shell("systemctl show camera -P MainPID")
    assert "is active already" in camera.deploy("second")
    assert camera.shell("systemctl show camera -P MainPID,ActiveState").split() == [pid, "active"]
    assert camera.loaded("first", "second")
    assert f"{NAME}: release 2, second, since" in camera.status()
    said = camera.deploy("first", settings='unit = "ssh.service"', code=4)
    assert "Failed to reload-or-restart ssh.service: Interactive authentication required" in said, (
        "no right but that one"
    )


@pytest.mark.parametrize(
    "service",
    ["Type=notify", "Type=simple", "Type=notify\nRestart=on-failure"],
    ids=["that says when it is ready", "that does not", "that is started again by itself"],
)
def test_a_unit_that_fails_with_the_new_release(camera: Camera, service: str) -> None:
    """A unit that does not start with a release, or dies of it, has the old release again and runs with it."""
    camera.may_restart()
    camera.install("fails", service)
    camera.deploy("first")
    said = camera.deploy("second", code=4)
    assert re.search(r"systemd: second: release 2 was rolled back, release 1 is active again: ", said)
    assert "could not be told" not in said, "its start limit is no obstacle"
    assert camera.active() == "releases/1"
    assert camera.shell("systemctl is-active camera") == "active"
    assert camera.loaded("first", "first")


@pytest.mark.parametrize(
    ("polkit", "code", "told"),
    [("there", 1, "Interactive authentication required"), ("absent", 4, "Access denied")],
)
def test_a_user_who_may_not_restart_the_unit(camera: Camera, polkit: str, code: int, told: str) -> None:
    """A user without the right is told so in one sentence, and what ran with the old release runs on, untouched."""
    camera.may_restart()
    camera.install()
    camera.deploy("first")
    pid = camera.shell("systemctl show camera -P MainPID")
    camera.shell("rm /etc/polkit-1/rules.d/50-camera.rules")
    service = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
    if polkit == "absent":
        camera.shell(f"mv {service} {HOME}/polkit; systemctl stop polkit; systemctl reload dbus")
    try:
        said = camera.deploy("second", code=4)
    finally:
        camera.shell(f"mv {HOME}/polkit {service}; systemctl reload dbus")
    assert (
        f"{NAME}: second: release 2 was rolled back, release 1 is active again: the reload command failed: `sh` ended "
        f"with exit code {code}: Failed to reload-or-restart camera.service: {told} (attempt 3 of 3); and for the same "
        "reason the application could not be told of the old release again; let the user who logs in restart that "
        "unit, by a rule of polkit or by sudo.\n"
    ) in said
    assert camera.active() == "releases/1"
    assert camera.shell("systemctl show camera -P MainPID") == pid
    assert camera.loaded("first")


def test_the_right_by_sudo(camera: Camera) -> None:
    """A user whom sudo lets restart this unit, and no other, deploys with the commands of the documentation."""
    path = "/etc/sudoers.d/camera"
    camera.write(path, documented(path), "440")
    camera.install("fails", "Type=notify\nRestart=on-failure")
    [settings] = re.findall(r"^```toml\n\[deploy\]\n(reload = .*?sudo.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    camera.deploy("first", settings=settings)
    said = camera.deploy("second", settings=settings, code=4)
    assert "release 1 is active again: the reload command failed" in said
    assert "could not be told" not in said
    assert camera.loaded("first", "first")
    assert "a password is required" in camera.deploy("first", settings=settings.replace("camera", "ssh"), code=4)


@pytest.mark.parametrize("pam", ["yes", "no"])
def test_a_unit_of_the_user_who_logs_in(camera: Camera, pam: str) -> None:
    """A service of the user is restarted over a login of any kind, and needs neither root nor a rule."""
    camera.install_for_user("fails")
    camera.shell(f"sed -i 's/^UsePAM .*/UsePAM {pam}/' /etc/ssh/sshd_config; systemctl restart ssh")
    try:
        assert "release 1, first, is active" in camera.deploy("first", settings=FOR_USER)
        assert "release 1 is active again" in camera.deploy("second", settings=FOR_USER, code=4)
        assert camera.loaded("first", "first")
    finally:
        camera.shell("sed -i 's/^UsePAM .*/UsePAM yes/' /etc/ssh/sshd_config; systemctl restart ssh")


def when_it_hangs(camera: Camera, what: Callable[[], object], settings: str) -> None:
    """Deploy the second release and do it while the unit starts with that; the link to the board is lost by it."""

    def watch() -> None:
        assert eventually(lambda: bool(camera.shell(f"ls {HANGS}")), 30)
        assert camera.active() == "releases/2"
        what()

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        assert f"edgedeploy: {NAME}: " in camera.deploy("second", settings=settings, code=3)
        watching.result()


@pytest.mark.parametrize("settings", [FOR_ALL, FOR_USER], ids=["of the system", "of the user"])
def test_power_lost_while_the_unit_restarts(camera: Camera, settings: str) -> None:
    """A board that loses its power amid an activation takes it back as it boots, before the application, by itself."""
    path = f"{UNITS}/edgedeploy-recover.service"
    if settings == FOR_USER:
        camera.install_for_user("hangs")
        camera.write(path, documented(path).replace("camera.service", "user@1000.service"))
    else:
        camera.may_restart()
        camera.install("hangs")
        camera.write(path, documented(path))
    camera.shell("systemctl enable edgedeploy-recover; sync")
    camera.deploy("first", settings=settings)
    when_it_hangs(camera, camera.board.stop, settings)
    camera.board.start()
    camera.board.wait()
    assert camera.shell("systemctl is-system-running --wait") == "running"
    assert camera.active() == "releases/1"
    assert camera.shell("systemctl show edgedeploy-recover -P Result -P ConditionResult").split() == ["success", "yes"]
    times = [f"-P ExecMain{event}TimestampMonotonic" for event in ("Start", "Exit")]
    began_us, ended_us = map(int, camera.shell(f"systemctl show edgedeploy-recover {' '.join(times)}").split())
    assert ended_us - began_us < 30e6, "it did not wait for a unit that waits for it"
    assert camera.running(settings)
    assert camera.loaded("first", "first"), "after the boot it was started once, with the old release"
    assert "the activation of release 2 was taken back" in camera.status()


def test_a_board_that_is_shut_down_while_the_unit_restarts(camera: Camera) -> None:
    """A board that is shut down in order amid an activation has taken it back before it is off."""
    camera.may_restart()
    camera.install("hangs")
    camera.deploy("first")
    when_it_hangs(camera, lambda: camera.shell("systemctl poweroff"), FOR_ALL)
    assert eventually(lambda: not camera.board.group.pids(), 30)
    lying = camera.board.disk.folder / "upper" / ROOT.lstrip("/")
    assert str((lying / "current").readlink()) == "releases/1"
    assert not (lying / "releases" / "journal.json").exists()
    camera.board.start()
    camera.board.wait()
    assert camera.shell("systemctl is-system-running --wait") == "running"
    assert camera.loaded("first", "first")
