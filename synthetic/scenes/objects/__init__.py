"""3D models: reading, names, a library of them on disk."""
