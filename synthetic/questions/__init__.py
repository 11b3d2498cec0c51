"""Questions about rendered scenes and documents: readers, conversations to train on, and how answers are scored."""
