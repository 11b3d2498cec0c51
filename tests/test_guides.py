"""The Python of the README and the guides runs, and uses public names only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import perception_encoder as pe
from perception_encoder.formats.shards import write_members
from perception_encoder.preprocess.video_file import write_video

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- not run: [^\n]*-->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
MODELS = {
    r"PE-Core-[\w-]+": "builtin",
    r"PE-Spatial-[\w-]+": "builtin-spatial",
    r"facebook/Perception-LM-\w+": "builtin-lang",
}
"""What stands for the models that would be downloaded."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [page for page in PAGES if any(not skip for skip, _ in BLOCK.findall(page.read_text(encoding="utf-8")))]


def picture(colour: str, at: int = 40) -> Image.Image:
    """A disc on a grey ground."""
    image = Image.new("RGB", (160, 120), "grey")
    ImageDraw.Draw(image).ellipse((at, 40, at + 44, 84), fill=colour)
    return image


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the guides name, in the current directory; no default model is chosen."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    directory = tmp_path / "here"
    (directory / "clips").mkdir(parents=True)
    (directory / "photos").mkdir()
    for name, colour in {"mug": "red", "dog": "brown", "cup": "orange", "photo": "blue", "room": "white"}.items():
        picture(colour).save(directory / f"{name}.jpg")
        picture(colour).save(directory / "photos" / f"{name}.jpg")
    for split in ("train", "test"):
        for colour in ("red", "blue"):
            (directory / "flowers" / split / colour).mkdir(parents=True)
            for number in range(6):
                picture(colour, 30 + number).save(directory / "flowers" / split / colour / f"{number}.jpg")
    frames = [picture("orange", 40 + number) for number in range(6)]
    for name in ("clip.mp4", "clips/dog.mp4"):
        with write_video(directory / name, frames[0].size, 6) as add:
            for frame in frames:
                add(frame)
    clip = (directory / "clip.mp4").read_bytes()
    write_members(directory / "DATA" / "train" / "000000.tar", [("a.mp4", clip), ("a.json", b"{}")])
    monkeypatch.chdir(directory)
    return directory


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
@pytest.mark.usefixtures("media")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # transformers' trainer on a CPU
def test_the_python_of_a_page_runs(page: Path) -> None:
    names: dict[str, Any] = {"pe": pe}
    for skip, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if skip:
            continue
        for published, stand_in in MODELS.items():
            block = re.sub(rf'"(random:)?{published}"', rf'"\g<1>{stand_in}"', block)
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_imports_public_names_only(page: Path) -> None:
    for _, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert re.findall(r"^(?:from|import) perception_encoder\.(?!errors\b).*", block, re.MULTILINE) == []
