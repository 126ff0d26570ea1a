"""Where the time goes: a recorder of what an engine does, traces for Perfetto, hot spots, and the
workloads that are recorded."""

from longbow_quarrel.profiling.hot_spots import HotSpot, Summary, hot_spots, summary
from longbow_quarrel.profiling.recorder import Recorder, Recording
from longbow_quarrel.profiling.trace import write_trace
from longbow_quarrel.profiling.workload import chat_load, prompt_load, serve_load

__all__ = [
    "HotSpot",
    "Recorder",
    "Recording",
    "Summary",
    "chat_load",
    "hot_spots",
    "prompt_load",
    "serve_load",
    "summary",
    "write_trace",
]
