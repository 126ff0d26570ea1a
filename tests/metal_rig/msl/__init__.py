"""Metal Shading Language on the CPU: compiler and runner."""
