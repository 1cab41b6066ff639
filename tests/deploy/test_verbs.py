"""The verbs about releases: what they do, what they print, and every mistake one can make with them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.cli import main
from edgedeploy.deploy import new_key
from edgedeploy.project import Project
from edgedeploy.records import Outcome, Report, Variant
from tests.deploy.releasing import Built
from tests.support.project import PLAN, write_project
from tests.support.records import make_report
from tools.adbd import SERIAL, Phone

QUICK = "\n[deploy]\nattempts = 1\npause_s = 0\nsteady_s = 0.01\nmax_slowdown = 1000\n"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def fleet(folder: Path, more: str = "", python: str = sys.executable) -> str:
    """This machine as itself, and as a phone whose Python is `python`."""
    return (
        '[[device]]\nname = "here"\nprofile = "x86-64"\naddress = "local:"\n'
        f'root = "{folder / "board"}"\npython = "{sys.executable}"\n{more}'
        f'[[device]]\nname = "phone"\nprofile = "x86-64"\naddress = "adb://{SERIAL}"\n'
        f'root = "{folder / "phone"}"\npython = "{python}"\n'
    )


def keep(project: Project, built: Built, folder: Path) -> Variant:
    """Put a variant into the project's store, as a build would."""
    variant = built.variant
    files = built.files(folder / "files")
    for artifact in (variant.artifact, variant.packed, variant.contract, variant.probe):
        assert project.store.put(files[artifact.sha256], artifact.format) == artifact
    project.store.save_variant(variant)
    return variant


def measured(variant: Variant, p50_ms: float, **changes: Any) -> Report:
    emulated = changes.pop("emulated", False)
    return replace(make_report(variant, p50_ms, emulated=emulated), profile="x86-64", **changes)


@pytest.fixture
def project(tmp_path: Path, first: Built, second: Built) -> Project:
    """Two variants were built and measured, the first one better; there is a key."""
    folder = tmp_path / "project"
    opened = Project(write_project(folder, plan=PLAN + QUICK, fleet=fleet(folder)))
    variants = [keep(opened, built, tmp_path) for built in (first, second)]
    opened.store.set_current(variants)
    for variant, p50_ms in zip(variants, (1.0, 2.0), strict=True):
        opened.store.save_report(measured(variant, p50_ms))
    new_key("release")
    return opened


def run(capsys: pytest.CaptureFixture[str], *argv: str, expect: int = 0) -> Any:
    code = main([*argv, "--json"])
    captured = capsys.readouterr()
    assert code == expect, captured
    return json.loads(captured.out)


def test_the_road_of_releases(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--project", str(project.folder))
    (done,) = run(capsys, "deploy", *place, "--device", "here")
    assert (done["device"], done["error"], done["result"]["variant"], done["result"]["number"]) == (
        "here",
        None,
        "first",
        1,
    )
    assert done["result"]["enrolled"].startswith("SHA256:")
    assert main(["deploy", *place, "--device", "here"]) == 0
    assert "first is active already, as release 1; --afresh deploys again" in capsys.readouterr().out
    assert main(["deploy", *place, "--device", "here", "--variant", "second"]) == 0
    told = capsys.readouterr().out
    assert "here: release 2, second, is active" in told
    assert "before: release 1, first" in told
    assert "no reload is set" in told
    (seen,) = run(capsys, "status", *place, "--device", "here")
    releases = seen["releases"]
    assert (releases["current"]["variant_name"], releases["previous"]["variant_name"]) == ("second", "first")
    assert releases["current"]["since"] <= releases["seen_at"]
    assert main(["rollback", *place, "--device", "here"]) == 0
    assert "here: release 1, first, is active" in capsys.readouterr().out
    assert main(["status", *place, "--device", "here", "--offline"]) == 0
    offline = capsys.readouterr().out
    assert "here: release 1, first, since" in offline
    assert "(as of " in offline
    assert main(["gc", *place, "--device", "here", "--dry-run", "--keep-hours", "0"]) == 0
    assert "here: would remove 0, would free 0 B." in capsys.readouterr().out
    (project.folder / "board" / "objects" / "sha256" / ("0" * 64)).write_bytes(b"x" * 2000)
    (gone,) = run(capsys, "gc", *place, "--device", "here", "--keep-hours", "0")
    assert (gone["result"]["freed_bytes"], gone["result"]["removed"]) == (2000, ["object " + "0" * 64])
    new_key("next")
    assert main(["keys", "rotate", *place, "--device", "here", "--key", "release", "--to", "next"]) == 0
    assert "here: takes releases of the key next" in capsys.readouterr().out


@pytest.fixture
def with_phone(project: Project, phone: Phone, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same where the phone of the fleet is there."""
    monkeypatch.setenv("ADB_SERVER_SOCKET", phone.environment["ADB_SERVER_SOCKET"])
    return project


PASSED_OVER = "not deployed to: there the app owns its model"


def test_a_phone_among_all_is_passed_over(with_phone: Project, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--project", str(with_phone.folder))
    new_key("next")
    signed = ("--key", "release")
    for argv, result in (
        (["deploy", "--all", *signed], "result"),
        (["deploy", "--all", "--variant", "second", *signed], "result"),
        (["status"], "releases"),
        (["status", "--offline"], "releases"),
        (["rollback", "--all"], "result"),
        (["keys", "enrol", "--all", *signed], "result"),
        (["keys", "rotate", "--all", *signed, "--to", "next"], "result"),
    ):
        here, phone = run(capsys, *argv, *place)
        assert (here["device"], here["error"], here["passed_over"]) == ("here", None, None)
        assert here[result] is not None
        assert phone == {"device": "phone", "error": None, "passed_over": PASSED_OVER, result: None}
        if "rotate" in argv:
            argv = ["keys", "rotate", "--all", "--key", "next", "--to", "release"]
        assert main([*argv, *place]) == 0
        told = capsys.readouterr()
        assert told.out.startswith("here: ")
        assert told.out.endswith(f"\nphone: {PASSED_OVER}.\n")
        assert "edgedeploy: " not in told.err
    assert not (with_phone.folder / "phone").exists()


def test_with_phones_alone_there_is_nothing_to_deploy_and_no_error(
    with_phone: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = with_phone.folder / "fleet.toml"
    file.write_text("[[device]]" + file.read_text().rpartition("[[device]]")[2])
    place = ("--project", str(with_phone.folder))
    for argv in (["deploy", "--all"], ["rollback", "--all"], ["status"]):
        assert main([*argv, *place]) == 0
        assert capsys.readouterr().out == f"phone: {PASSED_OVER}.\n"


def test_garbage_is_collected_on_a_phone_that_has_a_python(
    with_phone: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--project", str(with_phone.folder))
    run(capsys, "push", *place)
    pushed = {path.name for path in (with_phone.folder / "phone" / "objects" / "sha256").iterdir()}
    assert pushed
    here, phone = run(capsys, "gc", *place, "--all", "--keep-hours", "0", "--dry-run")
    assert here["result"]["count"] == phone["result"]["count"] == len(pushed)
    assert main(["gc", *place, "--device", "phone", "--keep-hours", "0"]) == 0
    assert f"phone: removed {len(pushed)}, freed " in capsys.readouterr().out
    assert not list((with_phone.folder / "phone" / "objects" / "sha256").iterdir())


def test_garbage_on_a_phone_without_a_python_is_one_sentence(
    with_phone: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--project", str(with_phone.folder))
    (with_phone.folder / "fleet.toml").write_text(fleet(with_phone.folder, python="/none/python3"))
    assert main(["gc", *place, "--all"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "here: removed 0, " in told.out
    assert "\nphone: garbage is collected by a Python, and there is none: `edgedeploy provision` brings" in told.out
    here, phone = run(capsys, "gc", *place, "--all")
    assert (here["passed_over"], phone["error"], phone["result"]) == (None, None, None)
    assert phone["passed_over"].startswith("garbage is collected by a Python")
    assert main(["gc", *place, "--device", "phone"]) == 4
    assert "phone: no Python: `/none/python3` is not there; run `edgedeploy provision`" in capsys.readouterr().err


def test_status_of_a_board_that_is_gone_tells_what_it_had(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--project", str(project.folder))
    run(capsys, "deploy", *place, "--device", "here")
    path = project.folder / "fleet.toml"
    path.write_text(path.read_text().replace('"local:"', '"ssh://127.0.0.1:1"'))
    assert main(["status", *place, "--device", "here"]) == 3
    captured = capsys.readouterr()
    assert "here: release 1, first, since" in captured.out
    assert "(as of " in captured.out
    assert captured.err.startswith("edgedeploy: here: ")


def test_drift_is_exit_1(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--project", str(project.folder))
    run(capsys, "deploy", *place, "--device", "here")
    (project.folder / "board" / "current" / "contract.json").unlink()
    assert main(["status", *place, "--device", "here"]) == 1
    assert "release 1 strayed: contract.json: it is gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["deploy"], 2, "name devices with --device, or say --all, and not both; there: here, phone"),
        (["rollback", "--all", "--device", "here"], 2, "and not both"),
        (["gc"], 2, "name devices with --device"),
        (["deploy", "--device", "phone"], 2, "phones are measured and not deployed to"),
        (["rollback", "--device", "phone"], 2, "phones are measured and not deployed to"),
        (["status", "--device", "phone"], 2, "phones are measured and not deployed to"),
        (["status", "--offline", "--device", "phone"], 2, "phones are measured and not deployed to"),
        (["keys", "enrol", "--device", "phone"], 2, "phones are measured and not deployed to"),
        (["deploy", "--device", "here", "--device", "phone"], 2, "phones are measured and not deployed to"),
        (["deploy", "--device", "her"], 2, "no device `her` (did you mean `here`?)"),
        (["deploy", "--device", "here", "--variant", "frist"], 2, "no variant `frist` (did you mean `first`?)"),
        (["deploy", "--device", "here", "--key", "relaese"], 2, "no key `relaese` (did you mean `release`?)"),
        (["rollback", "--device", "here"], 4, "there is no release before the active one to go back to"),
        (["keys", "rotate", "--device", "here", "--to", "release"], 4, "not enrolled yet; run `edgedeploy keys enrol"),
        (["keys", "rotate", "--device", "here", "--to", "x"], 2, "no key `x`"),
    ],
)
def test_a_mistake_is_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, says: str
) -> None:
    assert main([*argv, "--project", str(project.folder)]) == code
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not (project.folder / "board" / "current").exists()


def test_a_variant_that_is_not_fit_is_not_deployed(
    project: Project, first: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--project", str(project.folder), "--device", "here")
    crashed = measured(first.variant, 1.0, outcome=Outcome.CRASHED, detail="killed by SIGSEGV", measured_at="2027")
    project.store.save_report(replace(crashed, id="1" * 64))
    assert main(["deploy", *place, "--variant", "first"]) == 4
    assert "was measured here and is not fit: crashed: killed by SIGSEGV; measure it again" in capsys.readouterr().err
    profile = project.folder / "device_profiles" / "x86-64.toml"
    profile.parent.mkdir()
    shipped = Path(__file__).parents[2] / "device_profiles" / "x86-64.toml"
    profile.write_text(shipped.read_text() + "\n[limits]\nmax_file_bytes = 10\n")
    assert main(["deploy", *place, "--variant", "second"]) == 4
    assert "second does not fit this board: it has " in capsys.readouterr().err
    assert main(["deploy", *place]) == 1
    assert "no variant qualifies; `edgedeploy select --device here` says why" in capsys.readouterr().err


@pytest.mark.fault
def test_a_rehearsal_is_refused(project: Project, first: Built, capsys: pytest.CaptureFixture[str]) -> None:
    """What was chosen by figures of an emulated board does not become active on a real one."""
    later = measured(first.variant, 0.5, emulated=True, id="2" * 64, measured_at="2027")
    project.store.save_report(later)
    place = ("--project", str(project.folder), "--device", "here")
    assert main(["deploy", *place]) == 4
    assert "was chosen in a rehearsal on an emulated board, and this board is none" in capsys.readouterr().err
    assert not (project.folder / "board" / "current").exists()


@pytest.mark.fault
def test_a_release_that_is_rolled_back_is_exit_4(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The reason that the board gives is what the user reads, and scripts see that it failed."""
    place = ("--project", str(project.folder), "--device", "here")
    run(capsys, "deploy", *place)
    health = 'health = ["sh", "-c", "echo out of memory; exit 7"]\nhealth_timeout_s = 0.2\n'
    unwell = f'[device.deploy]\nreload = ["true"]\n{health}'
    (project.folder / "fleet.toml").write_text(fleet(project.folder, unwell))
    assert main(["deploy", *place, "--variant", "second"]) == 4
    error = capsys.readouterr().err
    assert "here: second: release 2 was rolled back, release 1 is active again: " in error
    assert "`sh` ended with exit code 7: out of memory" in error
    (seen,) = run(capsys, "status", *place)
    assert (seen["releases"]["current"]["number"], seen["releases"]["highest"]) == (1, 2)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('unit = "app.service"\nreload = ["x"]', "says twice how to tell the application, by unit and by reload"),
        ("reload = []", "deploy.reload"),
        ('reload = "systemctl restart app"', "deploy.reload"),
        ('unit = "-rf"', "deploy.unit"),
        ("valid_days = 0", "deploy.valid_days"),
        ("attemps = 2", "deploy.attemps: unknown key (did you mean `attempts`?)"),
    ],
)
def test_a_mistake_in_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, says: str) -> None:
    folder = write_project(tmp_path / "project", plan=PLAN + f"\n[deploy]\n{table}\n")
    assert main(["status", "--project", str(folder)]) == 2
    assert says in capsys.readouterr().err
