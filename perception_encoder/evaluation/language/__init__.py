"""Ask language models the questions of datasets, and score their answers by rules."""
