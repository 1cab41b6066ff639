import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.compress import Distil, FineTune, PruneChannels, PruneWeights, apply_passes
from edgedeploy.compress.distil import class_scores
from edgedeploy.compress.features import Features
from edgedeploy.compress.training import Batch, train_from_scratch
from edgedeploy.errors import CompressionError, PlanError
from edgedeploy.records import Pass
from edgedeploy.task import Task, load_task, predict, task_digest
from tests.compress.measures import accuracy, few, same_weights
from tests.support.nets import write_task

pytestmark = pytest.mark.builds

TEACHER = """

def teacher():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.5)
        net[2].weight[1] = -2.0
    return net


def student():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
"""
# One plain step over all examples, so that what it changes is the gradient.
STEP: dict[str, Any] = {
    "epochs": 1,
    "learning_rate": 1.0,
    "batch_size": 60,
    "optimiser": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
}
NUMBERS = (
    ("inputs[:, :3].argmax(axis=1))", "inputs[:, :3])"),
    ("outputs[0].argmax(axis=1) == targets", "-((outputs[0] - targets) ** 2).mean(axis=1)"),
)


@pytest.fixture
def with_teacher(tmp_path: Path) -> Task:
    return load_task(write_task(tmp_path / "taught", extra=TEACHER), None)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(1, keepdims=True)
    return shares


def bias_gradient(task: Task, settings: Distil) -> np.ndarray:
    """What the pass thinks the loss's gradient at the biases of the last layer is."""
    before, after = task.load_model(), settings.apply(task.load_model(), task)
    return (before.get_parameter("2.bias") - after.get_parameter("2.bias")).detach().numpy()


def outputs(task: Task, model: Any) -> np.ndarray:
    return predict(model, task.train.inputs)[0].astype(np.float64)


@pytest.mark.parametrize(("temperature", "hardness"), [(1.0, 0.0), (3.0, 0.0), (3.0, 0.25)])
def test_the_gradient_is_that_of_the_paper(with_teacher: Task, temperature: float, hardness: float) -> None:
    task = with_teacher
    assert task.teacher is not None
    mine, its = outputs(task, task.load_model()), outputs(task, task.teacher())
    # Equation 2 of arXiv:1503.02531, times T^2.
    soft = temperature * (softmax(mine / temperature) - softmax(its / temperature))
    hard = softmax(mine) - np.eye(3)[task.train.targets]
    expected = ((1 - hardness) * soft + hardness * hard).mean(0)
    found = bias_gradient(task, Distil(**STEP, teacher="task", temperature=temperature, hardness=hardness))
    assert found == pytest.approx(expected, abs=1e-5)


def test_an_ensemble_answers_with_the_mean_of_its_members(tiny: Task) -> None:
    settings = Distil(**STEP, teacher="ensemble", members=2, hardness=0.0, teacher_epochs=3, teacher_learning_rate=0.1)
    members = []
    for seed in (0, 1):
        net = tiny.model()
        net.load_state_dict(train_from_scratch(tiny, settings.plainly(epochs=3, learning_rate=0.1, seed=seed)))
        members.append(softmax(outputs(tiny, net.eval()) / 2.0))
    assert not np.allclose(members[0], members[1])
    mine = softmax(outputs(tiny, tiny.load_model()) / 2.0)
    assert bias_gradient(tiny, settings) == pytest.approx((2.0 * (mine - sum(members) / 2)).mean(0), abs=1e-5)


def test_numbers_are_drawn_to_the_teachers(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path, *NUMBERS, extra=TEACHER), None)
    assert task.teacher is not None
    mine, its = outputs(task, task.load_model()), outputs(task, task.teacher())
    expected = 2 * (mine - its).mean(0) / 3
    assert bias_gradient(task, Distil(**STEP, teacher="task", hardness=0.0)) == pytest.approx(expected, abs=1e-5)


def test_several_outputs_add_up(tmp_path: Path) -> None:
    net = "nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))"
    twice = "\n\nclass Twice(nn.Sequential):\n    def forward(self, x):\n        return (super().forward(x),) * 2\n"
    loss = "\n\ndef loss(output, target):\n    return nn.functional.cross_entropy(output[0], target)\n"
    double = TEACHER.replace("nn.Sequential(nn.Linear(4, 8)", "Twice(nn.Linear(4, 8)").partition("\n\ndef student")[0]
    two = load_task(
        write_task(tmp_path, (net, net.replace("nn.Sequential", "Twice")), extra=twice + loss + double), None
    )
    one = load_task(write_task(tmp_path / "one", extra=TEACHER), None)
    settings = Distil(**STEP, teacher="task", hardness=0.0)
    assert bias_gradient(two, settings) == pytest.approx(2 * bias_gradient(one, settings), abs=1e-5)


@pytest.mark.parametrize(
    ("output", "targets", "expected"),
    [
        ((5, 3), (5,), (5, 3)),
        ((5, 3, 4, 4), (5, 4, 4), (5, 3, 4, 4)),
        ((5, 7, 3), (5, 7), (5, 3, 7)),
        ((5, 1), (5,), (5, 2)),
        ((5,), (5,), (5, 2)),
        ((5, 9), (5, 2), (5, 9)),
        ((5, 9, 8), (5,), None),
    ],
)
def test_where_the_classes_are(output: Any, targets: Any, expected: Any) -> None:
    import torch

    found = class_scores(torch.zeros(output), torch.zeros(targets, dtype=torch.int64))
    assert (None if found is None else tuple(found.shape)) == expected
    assert class_scores(torch.zeros(output), torch.zeros(targets)) is None


def test_one_score_is_that_of_the_second_of_two_classes() -> None:
    import torch

    scores = torch.tensor([[0.3], [-2.0]])
    found = class_scores(scores, torch.tensor([0, 1]))
    assert found is not None
    assert torch.allclose(torch.softmax(found, 1)[:, 1:], torch.sigmoid(scores))


def test_a_student_comes_out_in_the_nets_place(with_teacher: Task) -> None:
    first, again = (
        apply_passes(with_teacher.load_model(), [Distil(2, student="task")], with_teacher) for _ in range(2)
    )
    other = apply_passes(with_teacher.load_model(), [Distil(2, student="task", seed=1)], with_teacher)
    assert first.get_parameter("0.weight").shape == (5, 4)
    assert same_weights(first, again)
    assert not same_weights(first, other)
    assert not first.training


def test_features_of_unlike_widths_meet_through_a_projection(with_teacher: Task) -> None:
    import torch

    assert with_teacher.teacher is not None
    student, teacher = with_teacher.load_model(), with_teacher.teacher().eval()
    inputs = torch.from_numpy(with_teacher.train.inputs[0])
    features = Features("a test", student, teacher, with_teacher.example, ("1", "2", "0 = 1"), 0.5)
    assert [tuple(p.shape) for p in features.parameters] == [(8, 16), (8,), (8, 16), (8,)]
    with features:
        student(inputs)
        found = features.loss((inputs,))
    weight, bias, other_weight, other_bias = features.parameters
    pairs = [
        (student[:2](inputs) @ weight.T + bias, teacher[:2](inputs)),  # type: ignore[index]
        (student(inputs), teacher(inputs)),
        (student[:1](inputs) @ other_weight.T + other_bias, teacher[:2](inputs)),  # type: ignore[index]
    ]
    expected = 0.5 * sum(((mine - its) ** 2).mean() / (its**2).mean() for mine, its in pairs)
    torch.testing.assert_close(found, expected)
    assert not student[1]._forward_hooks  # type: ignore[index]


def test_features_alone_teach_too(with_teacher: Task) -> None:
    import torch

    assert with_teacher.teacher is not None
    teacher = with_teacher.teacher()
    settings = Distil(60, 0.02, teacher="task", hardness=0.0, temperature=1e-3, features=("2",), feature_weight=100.0)
    model = settings.apply(with_teacher.load_model(), with_teacher)
    inputs = torch.from_numpy(with_teacher.test.inputs[0])

    def distance(net: Any) -> float:
        return float((net(inputs) - teacher(inputs)).detach().square().mean())

    assert distance(model) < 0.5 * distance(with_teacher.load_model())


def test_two_devices_see_the_same_features(trained_gru: Task) -> None:
    import torch

    features = [name for name, module in trained_gru.load_model().named_modules() if "GRU" in type(module).__name__]
    settings = Distil(1, 1e-3, batch_size=512, optimiser="sgd", features=tuple(features[:1]))
    assert features
    one = apply_passes(trained_gru.load_model(), [PruneWeights(0.5), settings], trained_gru)
    two = dataclasses.replace(settings, devices=("cpu", "cpu"))
    for expected, found in zip(
        one.parameters(),
        apply_passes(trained_gru.load_model(), [PruneWeights(0.5), two], trained_gru).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ["cnn", "gru", "transformer"])
def test_a_pruned_net_learns_from_the_whole_one(
    family: str, trained_cnn: Task, trained_gru: Task, trained_transformer: Task
) -> None:
    task = {"cnn": trained_cnn, "gru": trained_gru, "transformer": trained_transformer}[family]
    pruned = PruneWeights(0.8)
    before = accuracy(apply_passes(task.load_model(), [pruned], task), task)
    model = task.load_model()
    tuned = Distil(2, 3e-3, temperature=2.0).apply(pruned.apply(model, task), task)
    zeros = sum(int((parameter == 0).sum()) for parameter in tuned.parameters() if parameter.ndim > 1)
    kept = sum(parameter.numel() for parameter in tuned.parameters() if parameter.ndim > 1)
    assert zeros > 0.7 * kept
    assert accuracy(tuned, task) > before


def test_a_narrowed_net_is_matched_layer_by_layer(trained_cnn: Task) -> None:
    task = few(trained_cnn)
    passes: list[Pass] = [PruneChannels(0.5), Distil(1, 3e-3, features=("2", "5"), feature_weight=0.1)]
    model = apply_passes(task.load_model(), passes, task)
    assert model.get_parameter("0.weight").shape[0] == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "task"}, r"distil: teacher is 'task', but the task file has no teacher\(\)"),
        ({"student": "task"}, r"distil: student is 'task', but the task file has no student\(\)"),
        ({"features": ("7",)}, "distil: features names '7', but the net has no layer called so; these are: 0, 1, 2"),
        ({"features": ("0 = 7",)}, "features names '7', but the teacher has no layer called so; these are: 0, 1, 2"),
    ],
)
def test_what_is_missing_is_said(tiny: Task, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        Distil(1, **settings).apply(tiny.load_model(), tiny)


def test_layers_that_cannot_be_matched_are_named(trained_cnn: Task) -> None:
    message = "features: 3 gives .* on the example, the teacher's 11 .*; they may differ along one axis"
    with pytest.raises(CompressionError, match=message):
        Distil(1, features=("3 = 11",)).apply(trained_cnn.load_model(), trained_cnn)


def test_a_fresh_student_must_come_first(with_teacher: Task) -> None:
    with pytest.raises(CompressionError, match=r"what prune-weights did before would be lost; put it first"):
        apply_passes(with_teacher.load_model(), [PruneWeights(0.5), Distil(1, student="task")], with_teacher)


def test_a_teacher_that_answers_no_number_is_refused(tmp_path: Path) -> None:
    blind = (
        "\n\nclass Blind(nn.Linear):\n    def forward(self, x):\n        return super().forward(x) / (x < 2).all()\n"
    )
    task = load_task(write_task(tmp_path, extra=blind + "\n\ndef teacher():\n    return Blind(4, 3)\n"), None)
    with pytest.raises(CompressionError, match="the teacher answers NaN or infinity on the training split"):
        Distil(1, teacher="task").apply(task.load_model(), task)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"hardness": 1.5}, "hardness is 1.5; it must be from 0 to 1"),
        ({"hardness": 1.0}, "hardness is 1, so that the teacher has no say"),
        ({"teacher": "file"}, "teacher is 'file'; it must be source or ensemble or task"),
        ({"student": "fresh"}, "student is 'fresh'; it must be net or task"),
        ({"members": 3}, "members is given, but the teacher is source; leave it out, or take ensemble"),
        ({"teacher": "ensemble", "members": 1}, "members is 1; it must be at least 2"),
        ({"teacher": "task", "teacher_epochs": 3}, "teacher_epochs is given, but the teacher is task"),
        ({"teacher": "ensemble", "features": ("0",)}, "features are given, but an ensemble has several nets"),
        ({"feature_weight": 1.0}, "feature_weight is given without features"),
        ({"features": ("0",), "feature_weight": 0.0}, "feature_weight is 0.0; it must be above 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distil(**{"epochs": 1, **settings})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def teacher():\n", "def teacher():\n    return 3\n", r"teacher\(\) returned a int; it must return a torch"),
        ("    return nn.Sequential(nn.Linear(4, 5)", "    return (nn.Linear(4, 5)", r"student\(\) returned a tuple"),
        ("nn.Linear(5, 3)", "nn.Linear(5, 2)", r"student\(\) gives outputs of shapes \[\(1, 2\)\].*gives \[\(1, 3\)\]"),
        (
            "nn.Linear(8, 3)",
            "nn.Linear(9, 3)",
            r"task.py: the forward pass of teacher\(\) on example\(\) raised Runtime",
        ),
        ("fill_(0.5)", "fill_(float('nan'))", r"teacher\(\) gives NaN or infinity on example\(\); check its weights"),
        ("    net = ", "    net = missing.", r"task.py:\d+: teacher\(\) raised NameError"),
    ],
)
def test_teacher_and_student_are_checked_as_the_net_is(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEACHER
    with pytest.raises(PlanError, match=message):
        load_task(write_task(tmp_path, extra=TEACHER.replace(old, new)), None)


def test_what_the_teacher_reads_is_part_of_the_tasks_digest(tmp_path: Path) -> None:
    reading = "    with open(__file__.replace('task.py', 'teacher.txt')) as file:\n        file.read()\n"
    (tmp_path / "teacher.txt").write_text("one")
    file = write_task(tmp_path, extra=f"\n\ndef teacher():\n{reading}    return nn.Linear(4, 3)\n")
    cache: dict[str, str] = {}
    first = task_digest(file, None, cache)
    assert task_digest(file, None, cache) == first
    (tmp_path / "teacher.txt").write_text("another")
    assert task_digest(file, None, cache) != first


def test_a_batch_knows_its_places(with_teacher: Task) -> None:
    # Soft targets go by the places of the examples, in whatever order they are drawn.
    import torch

    assert with_teacher.teacher is not None
    settings = Distil(1, teacher="task", hardness=0.0, temperature=1.0)
    student = with_teacher.load_model()
    soft = settings._soft_targets([with_teacher.teacher().eval()], with_teacher)
    loss = settings._loss(student, with_teacher, soft, None)
    inputs, targets = torch.from_numpy(with_teacher.train.inputs[0]), torch.from_numpy(with_teacher.train.targets)
    losses = [
        float(loss(Batch(places, (inputs[places],), targets[places])).detach())
        for places in (torch.arange(60), torch.arange(59, -1, -1))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert FineTune(3, 0.5, seed=7) == Distil(3, 0.5, seed=7).plainly()
