"""Which device computes."""

from __future__ import annotations

from pathlib import Path

from longbow_quarrel import _core
from longbow_quarrel.config import EngineConfig, usable_cores
from longbow_quarrel.sources import default_cache_dir


def metal_is_available() -> bool:
    """Whether this build has Metal and this machine a GPU for it."""
    return _core.MetalDevice.is_available()


def make_device(config: EngineConfig) -> _core.Device:
    """The device that a configuration asks for; ``auto`` takes Metal where there is one.

    Raises:
        QuarrelError: Metal is asked for and this build or this machine has none.
    """
    if config.device == "metal" or (config.device == "auto" and metal_is_available()):
        return _core.MetalDevice(
            archive_folder=str(default_cache_dir() / "metal"),
            metallib_folder=str(Path(__file__).parent / "metallib"),
        )
    return _core.CpuDevice(config.n_threads or usable_cores(), config.cpu_isa)


def describe(device: _core.Device) -> dict[str, str | int]:
    """What a user may want to know about it."""
    if isinstance(device, _core.CpuDevice):
        return {"name": device.name, "isa": device.isa, "n_threads": device.n_threads}
    assert isinstance(device, _core.MetalDevice)
    return {"name": device.name, "gpu": device.gpu_name}


def device_room_bytes(device: _core.Device) -> int | None:
    """What a model may take of a GPU's memory; None where the ledger's cap is the only limit."""
    if not isinstance(device, _core.MetalDevice):
        return None
    # A sixteenth is left for whole pages around weights and for what Metal itself allocates.
    return device.recommended_bytes * 15 // 16 - device.allocated_bytes
