"""Images and short videos rendered from 3D models, with exact ground truth."""
