"""Virtual boards that stand for real ones in tests and rehearsals: their own address, system, sensors and faults."""

from tools.lab.boards import VirtualBoard
from tools.lab.lab import Lab
from tools.lab.system import LabError

__all__ = ["Lab", "LabError", "VirtualBoard"]
