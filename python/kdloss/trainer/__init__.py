"""The trainer: a linear student that learns from labels and from a teacher."""

from .epochs import Record
from .settings import SCHEDULES, Settings
from .student import LinearStudent

__all__ = ["SCHEDULES", "LinearStudent", "Record", "Settings"]
