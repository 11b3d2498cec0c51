"""Execute a model's towers with torch, the reference, or OpenVINO, the fastest on a CPU."""

import sys
from typing import Any, cast

# openvino and nncf report their use to Google Analytics from a forked process, unless this package is missing.
cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
