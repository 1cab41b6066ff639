"""The task: everything the user states once about a net, so that every later step can be judged by it."""

from edgedeploy.task.definition import Arrays, Split, Task, predict
from edgedeploy.task.loading import load_task, task_digest
from edgedeploy.task.onnx_source import OnnxSource

__all__ = ["Arrays", "OnnxSource", "Split", "Task", "load_task", "predict", "task_digest"]
