"""The distillation of section 2.4 in small."""
