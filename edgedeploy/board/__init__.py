"""What the host does to one board: find out what it is, give it the agent and the files, have a job done."""

from edgedeploy.board.facts import BoardFacts
from edgedeploy.board.push import PushResult, lying, push
from edgedeploy.board.session import Board, open_board

__all__ = ["Board", "BoardFacts", "PushResult", "lying", "open_board", "push"]
