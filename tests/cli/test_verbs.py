from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.cli import main
from tests.support.project import PLAN, TASK, write_project

pytestmark = pytest.mark.builds

BESSEL = """
class Bessel(nn.Module):
    def forward(self, x):
        import torch
        return torch.special.bessel_j0(x)


"""
NAMES = ["dense-onnx-fp32", "dense-onnx-int8-u8s8"]


def run(capsys: pytest.CaptureFixture[str], *argv: str, expect: int = 0) -> Any:
    """Run a verb with --json and return the records: stdout must hold nothing else."""
    code = main([*argv, "--json"])
    captured = capsys.readouterr()
    assert code == expect, captured.err
    return json.loads(captured.out)


@pytest.mark.usefixtures("short_modes")
def test_the_road_by_hand(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--project", str(built))
    made = run(capsys, "build", *place)
    assert ([variant["name"] for variant in made["variants"]], made["made"]) == (NAMES, [])

    (dry,) = run(capsys, "push", *place, "--device", "here", "--dry-run")
    assert (len(dry["sent"]), dry["present"], dry["error"]) == (6, [], None)
    assert not [path for path in (built / "board" / "objects").rglob("*") if path.is_file()]
    (first,) = run(capsys, "push", *place, "--device", "here")
    assert (first["variants"], sorted(first["sent"])) == (NAMES, sorted(dry["sent"]))
    (again,) = run(capsys, "push", *place, "--device", "here")
    assert (again["sent"], again["bytes_sent"], len(again["present"])) == ([], 0, 6)

    (choice,) = run(capsys, "select", *place, expect=1)
    assert choice["winner"] is None
    assert choice["ranking"] == []
    assert {
        lost["variant"]: "run `edgedeploy profile" in lost["reason"] for lost in choice["rejected"]
    } == dict.fromkeys(NAMES, True)

    (one,) = run(capsys, "profile", *place, "--device", "here", "--variant", "dense-onnx-fp32")
    assert (one["variant_name"], one["outcome"], one["metrics"]["energy"] is None) == ("dense-onnx-fp32", "ok", True)
    assert one["metrics"]["absent"]["energy"]
    both = run(capsys, "profile", *place, "--device", "here")
    assert [report["variant_name"] for report in both] == NAMES
    assert both[0] == one, "what was measured is found again"
    assert run(capsys, "profile", *place, "--device", "here", "--afresh")[0]["id"] != one["id"]
    for report in both:
        latency, repetitions = report["metrics"]["latency"], report["conditions"]["repetitions"]
        assert latency["runs"] == sum(len(repetition["samples_ns"]) for repetition in repetitions) >= 64
        assert 0 < latency["p50_low_ms"] <= latency["p50_ms"] <= latency["p50_high_ms"]
        assert latency["p90_ms"] >= latency["p50_ms"]
        assert latency["init_ms"] > 0
        assert report["metrics"]["memory"]["peak_rss_over_runtime_bytes"] > 0
        assert report["verdict"] in ("valid", "suspect")
        assert report["max_output_error"] < 1e-3

    (choice,) = run(capsys, "select", *place, "--device", "here")
    assert choice["winner"] == choice["ranking"][0]
    assert {choice["winner"]} | {lost["variant"] for lost in choice["rejected"]} == set(NAMES)
    assert all(lost["reason"] for lost in choice["rejected"])

    shown = run(capsys, "show", "dense-onnx-int8-u8s8", *place)
    assert shown["variant"]["name"] == "dense-onnx-int8-u8s8"
    assert shown["contract"]["inputs"][0]["shape"] == [None, 64]
    assert shown["reports"][0]["device"] == "here"
    assert run(capsys, "show", shown["variant"]["id"][:8], *place)["variant"] == shown["variant"]
    (device,) = run(capsys, "devices", *place, "--probe")
    assert (device["name"], device["error"]) == ("here", None)
    assert device["facts"]["machine"] == "x86_64"
    (page,) = run(capsys, "report", *place)
    assert "dense-onnx-int8-u8s8" in Path(page["report"]).read_text()


def test_each_layer_of_a_variant_is_held_against_the_net(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--project", str(built))
    layers = run(capsys, "show", "dense-onnx-int8-u8s8", *place, "--layers")["layers"]
    assert [one["layer"] for one in layers["layers"]] == ["0", "1", "2"]
    assert layers["first_above"] is None
    assert layers["layers"][2]["relative_rms_error"] == pytest.approx(0.02, abs=0.02)
    assert main(["show", "dense-onnx-fp32", *place, "--layers"]) == 0
    printed = capsys.readouterr().out
    assert "dense-onnx-fp32 beside the net, layer by layer" in printed
    assert "No layer strays by more than 0.0001" in printed
    task = built / "task.py"
    task.write_text(task.read_text() + "\n")
    assert main(["show", "dense-onnx-fp32", *place, "--layers"]) == 2
    assert "has changed since it was built; run `edgedeploy build`" in capsys.readouterr().err


@pytest.mark.usefixtures("short_modes")
def test_run_walks_the_whole_road_and_goes_on_where_it_stopped(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "run", "--project", str(built))
    assert first["choices"][0]["winner"] in NAMES
    assert Path(first["report"]).exists()
    second = run(capsys, "run", "--project", str(built))
    assert (second["made"], second["pushes"][0]["bytes_sent"]) == ([], 0)
    assert second["choices"] == first["choices"], "nothing was measured again"
    assert main(["run", "--project", str(built)]) == 0
    words = capsys.readouterr().out
    assert all(name in words for name in NAMES)
    assert "0 built, 2 found, 0 failed" in words
    assert f"Report: {built / 'report.html'}" in words


@pytest.mark.usefixtures("short_modes")
def test_run_provisions_first_and_passes_over_a_board_that_it_cannot(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDEPLOY_CACHE", str(built / "cache"))
    with (built / "fleet.toml").open("a") as fleet:
        fleet.write('\n[[device]]\nname = "gone"\nprofile = "pi4"\naddress = "ssh://127.0.0.1:1"\n')
    argv = ["run", "--project", str(built), "--provision"]
    assert main([*argv, "--json"]) == 3
    done = json.loads(capsys.readouterr().out)
    here, gone = done["provisioned"]
    assert (here["device"], here["error"], here["brought"]) == ("here", None, {})
    assert gone["error"].startswith("gone: ")
    assert [each["device"] for each in done["pushes"]] == ["here"]
    assert [choice["device"] for choice in done["choices"]] == ["here", "gone"]
    assert main(argv) == 3
    assert capsys.readouterr().err.count(gone["error"]) == 1

    assert main([*argv, "--device", "here"]) == 0
    words = capsys.readouterr().out
    assert "brought" in words
    assert "gone" not in words


@pytest.mark.usefixtures("short_modes")
def test_every_verb_speaks_to_people_too(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--project", str(built)]
    for argv, says in (
        (["build"], "2 found"),
        (["push", "--dry-run"], "would send 6 objects"),
        (["push"], "sent 6 objects"),
        (["profile"], "2 measured now"),
        (["select"], "least latency"),
        (["show", "dense-onnx-fp32"], "n x 64 float32"),
        (["show", "dense-onnx-int8-u8s8"], "Gemm: int8"),
        (["devices"], "local:"),
        (["devices", "--probe"], "x86_64, Python 3."),
        (["report"], "report.html"),
    ):
        assert main([*argv, *place]) == 0
        assert says in capsys.readouterr().out, argv


@pytest.mark.usefixtures("short_modes")
def test_an_accelerator_is_measured_apart_and_a_fall_back_is_named(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The provider of every wheel that takes no node of such a net plays one whose chip is not there."""
    shipped = Path(__file__).parents[2] / "device_profiles" / "x86-64.toml"
    own = built / "device_profiles" / "x86-64.toml"
    own.parent.mkdir()
    azure = '[[accelerator]]\nname = "azure"\nruntime = "onnxruntime"\nprecisions = ["fp32"]\n'
    own.write_text(shipped.read_text() + azure + 'provider = "AzureExecutionProvider"\n')
    place = ("--project", str(built))
    on_cpu = run(capsys, "profile", *place)
    (fallen,) = run(capsys, "profile", *place, "--accelerator", "azure")
    assert (fallen["outcome"], fallen["verdict"]) == ("unsupported", "invalid")
    assert "nothing ran on azure: " in fallen["detail"]
    assert "ran on cpu where azure was asked for" in fallen["reasons"]
    told = fallen["conditions"]
    assert (told["accelerator"], told["accelerator_used"], told["accelerator_share"]) == ("azure", "cpu", 0.0)
    assert sum(told["placement"].values()) == told["placement"]["cpu"] > 0
    assert [report["conditions"]["accelerator_share"] for report in on_cpu] == [1.0, 1.0]
    assert run(capsys, "profile", *place, "--accelerator", "azure") == [fallen], "found again"
    assert run(capsys, "profile", *place) == on_cpu, "and not mixed with the other's"

    (choice,) = run(capsys, "select", *place)
    assert (choice["winner"] in NAMES, choice["accelerator"]) == (True, "cpu")
    (choice,) = run(capsys, "select", *place, "--accelerator", "azure", expect=1)
    assert {lost["variant"]: lost["reason"].partition(":")[0] for lost in choice["rejected"]} == {
        NAMES[0]: "unsupported",
        NAMES[1]: "azure takes fp32 there, not int8",
    }
    assert main(["profile", *place, "--accelerator", "azure"]) == 0
    words = capsys.readouterr().out
    assert "here on azure: 0 measured now, 1 found" in words
    assert f"left out: azure takes fp32 there, not int8 ({NAMES[1]})" in words


def test_a_board_that_is_not_there_is_exit_3_and_leaves_the_others_alone(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = built / "fleet.toml"
    gone = '[[device]]\nname = "gone"\nprofile = "x86-64"\naddress = "ssh://nobody@127.0.0.1:1"\n'
    fleet.write_text(fleet.read_text() + gone)
    assert main(["push", "--project", str(built)]) == 3
    captured = capsys.readouterr()
    assert "here: 2 variants; sent 6 objects" in captured.out
    assert captured.err.count("edgedeploy: gone: ") == 1
    assert "Traceback" not in captured.err


def test_a_board_without_any_runtime_is_named_with_the_mend(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import venv

    venv.create(built / "bare", symlinks=True)
    fleet = built / "fleet.toml"
    lines = [
        f'python = "{built / "bare" / "bin" / "python"}"' if line.startswith("python") else line
        for line in fleet.read_text().splitlines()
    ]
    fleet.write_text("\n".join(lines))
    assert main(["profile", "--project", str(built)]) == 4
    error = capsys.readouterr().err
    assert "here: no inference runtime can be imported by" in error
    assert "install onnxruntime or ai-edge-litert there" in error


def test_a_goal_that_nothing_meets_is_exit_1(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (built / "edgedeploy.toml").write_text(PLAN.replace("[goal]", "[goal]\nmax_file_bytes = 1"))
    assert main(["select", "--project", str(built)]) == 1
    assert "nothing qualifies" in capsys.readouterr().out


def test_init_writes_a_project_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = run(capsys, "init", str(tmp_path / "new"), "--example", "digits-gru")
    assert {Path(entry["file"]).name for entry in files} == {"edgedeploy.toml", "fleet.toml", "task.py"}
    (tmp_path / "new" / "task.py").write_text("mine")
    assert main(["init", str(tmp_path / "new")]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert (tmp_path / "new" / "task.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["build", "--recipe", "dnese"], "no recipe `dnese` (did you mean `dense`?); there: dense"),
        (["push", "--device", "her"], "no device `her` (did you mean `here`?); there: here"),
        (["show", "dense-onnx-fp23"], "no variant `dense-onnx-fp23` (did you mean `dense-onnx-fp32`?)"),
        (["profile", "--variant", "x"], "no variant `x`"),
        (["profile", "--mode", "long"], "'long' is not one of 'smoke', 'quick', 'full'"),
        (["profile", "--accelerator", "cuda"], "the profile x86-64 has no accelerator `cuda`; there: cpu, xnnpack"),
        (["run", "--accelerator", "xnpack"], "no accelerator `xnpack` (did you mean `xnnpack`?)"),
        (["train"], "train: missing; add a [train] table"),
        (["init", "--example", "digits"], "no example `digits`"),
        (["pusj"], "No such command 'pusj'"),
        (["push", "--devise", "here"], "No such option: --devise"),
    ],
)
def test_a_mistake_on_the_command_line_is_exit_2(
    built: Path, capsys: pytest.CaptureFixture[str], argv: list[str], says: str
) -> None:
    place = ["--project", str(built)] if argv[0] not in ("init", "pusj") else []
    assert main([*argv, *place]) == 2
    error = capsys.readouterr().err
    assert says in " ".join(error.split())
    assert "Traceback" not in error


def test_nothing_built_yet_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_project(tmp_path / "new")
    for verb in ("push", "profile", "select", "report"):
        assert main([verb, "--project", str(tmp_path / "new")]) == 2
        assert "nothing is built yet; run `edgedeploy build`" in capsys.readouterr().err


def test_a_task_that_cannot_be_exported_is_exit_4_and_names_the_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = TASK.replace("nn.ReLU()", "Bessel()").replace("def model", BESSEL + "def model")
    folder = write_project(tmp_path / "odd", task=odd)
    assert main(["build", "--project", str(folder)]) == 4
    words = capsys.readouterr()
    assert "bessel_j0" in words.out
    assert "Traceback" not in words.out + words.err
    assert main(["run", "--project", str(folder)]) == 4
    assert "nothing could be built" in capsys.readouterr().err
