"""Depth, classes of pixels and objects, trained on an encoder's layer, frozen or finetuned (section 5)."""
