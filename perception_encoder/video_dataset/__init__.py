"""Video datasets with refined captions: selection, annotation by people, statistics and the benchmark (section 2.3)."""
