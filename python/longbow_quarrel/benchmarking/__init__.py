"""Measuring speed and memory of a model in this process, and comparing cache strategies.

Figures come with their unit, their share of the machine's limit and a hash of what was computed.
"""

from __future__ import annotations

from longbow_quarrel.benchmarking.bandwidth import BandwidthMeter, memory_bandwidth
from longbow_quarrel.benchmarking.machine import Machine, describe_machine
from longbow_quarrel.benchmarking.measure import Measurement, StepBench, bench_config
from longbow_quarrel.benchmarking.traffic import Traffic
from longbow_quarrel.benchmarking.workload import Workload, workloads

__all__ = [
    "BandwidthMeter",
    "Machine",
    "Measurement",
    "StepBench",
    "Traffic",
    "Workload",
    "bench_config",
    "describe_machine",
    "memory_bandwidth",
    "workloads",
]
