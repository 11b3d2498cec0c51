"""The ablation of section 2.1 in small."""
