import sys
from pathlib import Path

import numpy as np
import pytest

from edgedeploy.errors import PlanError
from edgedeploy.task import load_task, predict
from tests.support.nets import TINY_TASK, write_task

pytestmark = pytest.mark.builds


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(TINY_TASK.splitlines(), start=1) if text in line)


def refusal(file: Path, weights: Path | None = None) -> str:
    with pytest.raises(PlanError) as caught:
        load_task(file, weights)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert message.startswith(str(file))
    return message


def test_a_task_is_read_as_written(tmp_path: Path) -> None:
    extra = 'METRIC = "accuracy"\nLABELS = ["a", "b", "c"]\nPREPROCESSING = "none"\n'
    task = load_task(write_task(tmp_path / "project", extra=extra), None)
    assert (task.name, task.folder) == ("project", (tmp_path / "project").resolve())
    assert (task.metric_name, task.labels, task.preprocessing) == ("accuracy", ("a", "b", "c"), "none")
    assert (task.layout, task.loss, task.weights) == (None, None, None)
    assert [len(split) for split in (task.train, task.calibration, task.selection, task.test)] == [60, 10, 20, 30]
    outputs = predict(task.load_model(), task.test.inputs, batch_size=7)
    assert outputs[0].shape == (30, 3)
    scores = task.metric(outputs, task.test.targets)
    assert isinstance(scores, np.ndarray)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, outputs[0].argmax(axis=1) == task.test.targets)


def test_without_weights_the_start_is_the_same_each_time_and_leaves_no_trace(tmp_path: Path) -> None:
    import torch

    task = load_task(write_task(tmp_path), None)
    state = torch.random.get_rng_state()
    first, second = task.load_model(), task.load_model()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not first.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_tensors_several_inputs_and_several_outputs(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text(
        """
import torch
from torch import nn

class Two(nn.Module):
    def forward(self, a, b):
        return a + b.float(), (a * 2).sum(1)

model = Two

def example():
    return torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64)

def data():
    return {name: (example(), torch.ones(2)) for name in ("train", "calibration", "selection", "test")}

def metric(outputs, targets):
    return torch.tensor(0.25)

def loss(output, target):
    return (output[1] - target).abs().mean()
"""
    )
    task = load_task(file, None)
    assert [array.dtype for array in task.example] == [np.float32, np.int64]
    outputs = predict(task.load_model(), task.test.inputs)
    assert [output.shape for output in outputs] == [(2, 3), (2,)]
    assert task.metric(outputs, task.test.targets) == 0.25
    assert task.loss is not None


def test_local_imports_are_found_fresh_and_leave_the_path_alone(tmp_path: Path) -> None:
    helped = (
        ("import torch\n", "import torch\nimport helper_of_task\n"),
        ("Linear(4, 16)", "Linear(4, helper_of_task.N)"),
    )
    file = write_task(tmp_path / "one", *helped, ("Linear(16, 3)", "Linear(helper_of_task.N, 3)"))
    path = list(sys.path)
    for width in (16, 17, 18):  # same size, same second
        (file.parent / "helper_of_task.py").write_text(f"N = {width}")
        model = load_task(file, None).load_model()
        assert next(model.parameters()).shape == (width, 4)
    assert sys.path == path
    assert not list(file.parent.glob("__pycache__")), "the user's folder is not written to"


def test_two_tasks_keep_their_own_module_of_one_name(tmp_path: Path) -> None:
    tasks = []
    for name, width in (("one", 5), ("two", 6)):
        # Imported late, when the other task has been loaded already.
        old = "    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))"
        change = (old, "    from shared_name import N\n    return nn.Sequential(nn.Linear(4, N), nn.Linear(N, 3))")
        file = write_task(tmp_path / name, change)
        (file.parent / "shared_name.py").write_text(f"N = {width}\n")
        tasks.append(load_task(file, None))
    widths = [next(task.load_model().parameters()).shape[0] for task in (*tasks, *tasks)]
    assert widths == [5, 6, 5, 6]


def test_a_module_that_was_there_before_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_task(tmp_path / "one", ("import torch\n", "import torch\nimport early_bird\n"))
    (file.parent / "early_bird.py").write_text("")
    monkeypatch.syspath_prepend(str(file.parent))
    import early_bird  # type: ignore[import-not-found]

    load_task(file, None)
    load_task(write_task(tmp_path / "two"), None)
    assert sys.modules["early_bird"] is early_bird
    monkeypatch.delitem(sys.modules, "early_bird")


@pytest.mark.parametrize("name", ["model", "example", "data", "metric"])
def test_a_missing_function_is_named(tmp_path: Path, name: str) -> None:
    assert f"{name}() is missing" in refusal(write_task(tmp_path, (f"def {name}(", f"def other_{name}(")))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("import torch\n", "import no_such_module\n", "raised ModuleNotFoundError: No module named 'no_such_module'"),
        ("import torch\n", "raise KeyError('k')\n", "raised KeyError: 'k'"),
        ("import torch\n", "raise SystemExit(3)\n", "raised SystemExit: 3"),
        ("    random = ", "    1 / 0\n    random = ", "data() raised ZeroDivisionError: division by zero"),
        ("    return nn.Sequential", "    nn.Linear('a', 2)\n    return nn.Sequential", "model() raised TypeError"),
        ("    return np.ones((1, 4)", "    raise OSError(2, 'gone')\n    return np.ones((1, 4)", "example() raised"),
    ],
)
def test_what_the_users_code_raises_is_one_sentence_with_its_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    message = refusal(write_task(tmp_path, (old, new)))
    assert expected in message
    assert message.startswith(f"{tmp_path / 'task.py'}:{line_of(old.strip())}: ")


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    message = refusal(write_task(tmp_path, ("def example():", "def example(:")))
    assert message.startswith(f"{tmp_path / 'task.py'}:{line_of('def example')}: invalid syntax")


def test_a_mistake_in_a_local_import_is_found_there(tmp_path: Path) -> None:
    file = write_task(tmp_path, ("import torch\n", "import torch\nimport broken_helper\n"))
    (tmp_path / "broken_helper.py").write_text("\n\nraise ValueError('no\\nway')\n")
    with pytest.raises(PlanError, match=r"broken_helper\.py:3: the file raised ValueError: no way$"):
        load_task(file, None)


def test_an_exception_in_the_forward_pass_names_the_line(tmp_path: Path) -> None:
    net = "class Net(nn.Module):\n    def forward(self, x):\n        return x @ torch.ones(7, 2)\n\n\ndef model():"
    file = write_task(
        tmp_path, ("def model():", net), ("    return nn.Sequential", "    return Net()\n    nn.Sequential")
    )
    message = refusal(file)
    assert f":{line_of('def model') + 2}: the forward pass on example() raised RuntimeError" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("return nn.Sequential(", "return str(")], "model() raised"),
        ([("    return nn.Sequential", "    return 'net'\n    nn.Sequential")], "must return a torch.nn.Module"),
        ([("np.ones((1, 4), dtype=np.float32)", "[1.0, 2.0]")], "example()[0] is a float"),
        ([("np.ones((1, 4), dtype=np.float32)", "np.array(['a'])")], "example() has dtype <U1"),
        ([("np.ones((1, 4), dtype=np.float32)", "np.ones((0, 4))")], "example() holds no example"),
        ([("np.ones((1, 4), dtype=np.float32)", "np.ones((1, 4), dtype=np.float64)")], "float32, that of example() is"),
        ([("np.ones((1, 4)", "np.ones((1, 5)")], "examples of shape (4,), example() of (5,)"),
        ([('"selection": 20, ', "")], "lacks selection"),
        ([('"selection": 20', '"validation": 20')], "lacks selection; validation is not known"),
        ([('"test": 30', '"test": 30, "spare": 5')], "too many keys; spare is not known"),
        ([("    return splits", "    return list(splits)")], "data() returned a list"),
        ([("(inputs, inputs[:, :3].argmax(axis=1))", "inputs")], "must be a pair (inputs, targets)"),
        ([("inputs[:, :3].argmax(axis=1))", "inputs[1:, :3].argmax(axis=1))")], "has 60 inputs but 59 targets"),
        ([("(inputs, inputs[:", "((inputs, inputs), inputs[:")], "2 input arrays where example() has 1"),
        ([("(inputs, inputs[:", "((inputs, inputs[1:]), inputs[:")], "differ in length: 60, 59"),
        ([('"test": 30', '"test": 0')], "holds no example"),
        ([(".astype(np.float32)", ".astype(np.float32) * np.float32('nan')")], "holds NaN or infinity"),
        ([("import torch\n", "import torch\nLAYOUT = 'CHW'\n")], "LAYOUT is 'CHW'; it must be NCHW or NHWC"),
        ([("import torch\n", "import torch\nLAYOUT = 'NCHW'\n")], "example() has 2 axes"),
        ([("import torch\n", "import torch\nLABELS = 'abc'\n")], "LABELS must be a tuple of strings"),
        ([("import torch\n", "import torch\nMETRIC = 3\n")], "METRIC is a int"),
        ([("import torch\n", "import torch\nloss = 3\n")], "loss is a int; it must be a function"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: list[tuple[str, str]], expected: str) -> None:
    assert expected in refusal(write_task(tmp_path, *changes))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("torch.log(-x)", "holds NaN or infinity"),
        ("{'logits': x}", "is a dict; forward() must return a tensor"),
        ("x.sum()", "has shape () for a batch of 1"),
    ],
)
def test_a_net_with_unusable_outputs_is_refused(tmp_path: Path, output: str, expected: str) -> None:
    net = f"class Net(nn.Module):\n    def forward(self, x):\n        return {output}\n\n\ndef model():"
    file = write_task(
        tmp_path, ("def model():", net), ("    return nn.Sequential", "    return Net()\n    nn.Sequential")
    )
    with pytest.raises(PlanError) as caught:
        load_task(file, None)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("targets[1:]", "metric() returned shape (29,) for 30 examples"),
        ("outputs[0]", "metric() returned shape (30, 3)"),
        ("'good'", "metric() returned a str"),
        ("float('nan')", "metric() returned NaN"),
        ("outputs[1]", "metric() raised IndexError"),
    ],
)
def test_a_metric_must_give_scores(tmp_path: Path, result: str, expected: str) -> None:
    task = load_task(
        write_task(tmp_path, ("    return outputs[0].argmax(axis=1) == targets", f"    return {result}")), None
    )
    outputs = predict(task.load_model(), task.test.inputs)
    with pytest.raises(PlanError) as caught:
        task.metric(outputs, task.test.targets)
    assert expected in str(caught.value)


def test_a_missing_task_file_says_how_to_get_one(tmp_path: Path) -> None:
    assert "edgedeploy init" in refusal(tmp_path / "task.py")
