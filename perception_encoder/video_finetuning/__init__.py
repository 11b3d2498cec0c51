"""Finetuning of an image-text model on videos with captions (section 2.4)."""
