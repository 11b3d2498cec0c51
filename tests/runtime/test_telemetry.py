"""OpenVINO and nncf send nothing about their users."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import perception_encoder.runtime, sys
import openvino, nncf
from openvino.tools.ovc import telemetry_utils
assert "openvino_telemetry.main" not in sys.modules
assert "multiprocessing.popen_fork" not in sys.modules, "a process was forked"
"""


def test_nothing_is_sent_when_openvino_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CODE], check=True, env=environment)
    assert list(tmp_path.rglob("*telemetry*")) == list(tmp_path.rglob("*_cid")) == []
