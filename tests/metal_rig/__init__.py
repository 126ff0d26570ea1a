"""The Metal rig: real shaders and real Objective-C++, executed on Linux (docs/metal-rig.md)."""
