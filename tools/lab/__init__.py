"""Virtual boards that stand for real ones in tests and rehearsals: their own address, system, sensors and faults."""

from tools.lab.boards import VirtualBoard
from tools.lab.lab import Lab
from tools.lab.storage import Disk
from tools.lab.system import LabError, check_machine

__all__ = ["Disk", "Lab", "LabError", "VirtualBoard", "check_machine"]
