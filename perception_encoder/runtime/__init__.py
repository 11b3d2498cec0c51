"""How a model's towers are executed: torch, the reference, or OpenVINO, the fastest on a CPU."""

import sys
from typing import Any, cast

# `import openvino` and nncf send what they do to Google Analytics, from a process that they fork, and nobody was asked.
# They do without if this package is missing.
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
