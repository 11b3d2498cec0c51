"""`evaluate`; the stub beside this file has the keywords of each task, for type checkers and editors."""

from perception_encoder.api import evaluate as evaluate
