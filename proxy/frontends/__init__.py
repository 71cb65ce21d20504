"""HTTP APIs that agents speak, to core and back, without I/O."""
