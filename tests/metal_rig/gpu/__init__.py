"""The Metal kernels on an NVIDIA GPU: see docs/metal-rig.md."""
