"""The device rules over the plan and the plan over the defaults; a unit stands for two commands."""

from __future__ import annotations

import pytest

from edgedeploy.deploy import settled
from edgedeploy.records import DeploySettings

RESTART = ("sh", "-c", 'systemctl reset-failed -- "$1" 2>/dev/null; exec systemctl reload-or-restart -- "$1"', "sh")
RESTART_FOR_USER = (*RESTART[:2], RESTART[2].replace("systemctl", "systemctl --user"), "sh")


def test_what_is_not_said_has_a_default() -> None:
    settings = settled(DeploySettings(attempts=5), DeploySettings(attempts=2, max_slowdown=3.0))
    assert (settings.attempts, settings.max_slowdown, settings.valid_days, settings.reload) == (5, 3.0, 30.0, None)


@pytest.mark.parametrize(
    ("device", "plan", "reload", "health"),
    [
        (
            DeploySettings(unit="app.service"),
            DeploySettings(reload=("x",)),
            (*RESTART, "app.service"),
            ("systemctl", "is-active", "--quiet", "--", "app.service"),
        ),
        (
            DeploySettings(),
            DeploySettings(user_unit="app.service"),
            (*RESTART_FOR_USER, "app.service"),
            ("systemctl", "--user", "is-active", "--quiet", "--", "app.service"),
        ),
        (DeploySettings(reload=("y",)), DeploySettings(unit="app.service"), ("y",), None),
        (DeploySettings(key="k"), DeploySettings(reload=("x",), health=("z",)), ("x",), ("z",)),
    ],
)
def test_how_the_application_is_told(
    device: DeploySettings, plan: DeploySettings, reload: tuple[str, ...], health: tuple[str, ...] | None
) -> None:
    settings = settled(device, plan)
    assert (settings.reload, settings.health) == (reload, health)
