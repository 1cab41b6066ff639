"""What is measured on a visit, on which accelerator, and which reports are found again for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgedeploy.board.bundle import agent_bundle
from edgedeploy.errors import PlanError
from edgedeploy.lab.visit import measurement, unmeasured
from edgedeploy.project import Project
from edgedeploy.records import Report
from tests.support.project import PLAN, local_fleet, write_project
from tests.support.records import make_report, make_variant

VARIANT = make_variant()


def reported(accelerator: str, name: str) -> Report:
    report = make_report(VARIANT)
    conditions = replace(report.conditions, mode="quick", accelerator=accelerator, accelerator_used=accelerator)
    return replace(
        report, id=name, profile="x86-64", conditions=conditions, agent_sha256=agent_bundle()[1], measured_at=name
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    project = Project(write_project(folder, fleet=local_fleet(folder) + 'tags = ["bench"]\n'))
    for name, accelerator in (("1", "cpu"), ("2", "openvino"), ("3", "cpu"), ("4", "xnnpack")):
        project.store.save_report(reported(accelerator, name))
    return project


@pytest.mark.parametrize(("accelerator", "newest"), [(None, "3"), ("cpu", "3"), ("openvino", "2"), ("xnnpack", "4")])
def test_the_newest_report_of_the_accelerator_asked_for_is_found(
    project: Project, accelerator: str | None, newest: str
) -> None:
    (device,) = project.devices()
    assert project.latest_reports(device, accelerator)[VARIANT.id].id == newest


def test_the_command_line_rules_over_the_device_and_the_device_over_the_plan(tmp_path: Path) -> None:
    plan = PLAN + '[profile]\naccelerator = "xnnpack"\n'
    by_plan = Project(write_project(tmp_path / "plan", plan=plan))
    fleet = local_fleet(tmp_path) + 'accelerator = "openvino"\n'
    by_device = Project(write_project(tmp_path / "device", plan=plan, fleet=fleet))
    for opened, says in ((by_plan, "xnnpack"), (by_device, "openvino")):
        (device,) = opened.devices()
        assert opened.accelerator(device) == says
        assert measurement(opened, device).accelerator == says
        assert measurement(opened, device, accelerator="cpu").accelerator == "cpu"


def test_an_accelerator_that_the_profile_does_not_list_is_a_mistake_of_the_user(project: Project) -> None:
    (device,) = project.devices()
    says = r"here: the profile x86-64 has no accelerator `opnvino` \(did you mean `openvino`\?\); there: cpu, "
    with pytest.raises(PlanError, match=says):
        measurement(project, device, accelerator="opnvino")


def test_what_was_measured_on_one_accelerator_is_not_measured_on_another(project: Project) -> None:
    (device,) = project.devices()
    for accelerator in ("cpu", "openvino"):
        wanted = measurement(project, device, accelerator=accelerator)
        assert unmeasured([VARIANT], project.latest_reports(device, accelerator), wanted) == []
    of_the_cpu = project.latest_reports(device, "cpu")
    assert unmeasured([VARIANT], of_the_cpu, measurement(project, device, accelerator="openvino")) == [VARIANT]
    assert unmeasured([VARIANT], of_the_cpu, measurement(project, device, afresh=True)) == [VARIANT]
