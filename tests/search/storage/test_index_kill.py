"""An index whose making is killed at any moment goes on where it stopped: nothing is lost and nothing doubled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import clip

HARNESS = """
import hashlib, os, random, signal, sys, time, traceback, types
from pathlib import Path
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.search.lookup import WordQuery
from perception_encoder.search.storage import update as module
from perception_encoder.words import reader
from perception_encoder.words.reader import TextLine

folder, checkpoint, kills, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[5])
encoder = load(checkpoint)
encoder.weight_hash
module.load = lambda source: encoder
module.COMMIT_SECONDS = 0.0
type(encoder).batch_size = 4

def line_of(media):
    '''The words of a file: a digest of its content; of a clip, its name.'''
    content = media.payload.read_bytes()
    return [TextLine(text="w" + hashlib.md5(content).hexdigest()[:12], confidence=0.9, box=(0.0,) * 8)]

sys.modules["rapidocr"] = types.ModuleType("rapidocr")
reader.read_words, module.can_read_words = line_of, lambda: True

def update():
    with module.writable_store(folder, ModelSpec(checkpoint), words=True) as (index, encoder):
        module.update_store(index, encoder)

def found_by_words():
    '''Each image is found by its words, and by them alone.'''
    from perception_encoder.search.storage.writer import IndexWriter
    store = IndexWriter.open(folder)
    assert store.unread() == []
    for row in store.rows("kind = 'image'"):
        (word,) = [line.text for line in store.lines([row])[0]]
        assert [other.digest for *_, other in store.with_words(WordQuery(words=(word,)), row.vector, 9)] == [row.digest]

def report():
    from perception_encoder.search.storage.store import IndexStore
    rows = IndexStore.open(folder).rows() if IndexStore.exists(folder) else []
    places = [(row.path, row.start) for row in rows]
    assert len(set(places)) == len(places)
    Path(sys.argv[4]).write_text(repr({row.path: row.digest for row in rows}))

def child(work):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid

def content():
    assert os.waitpid(child(report), 0)[1] == 0
    return eval(Path(sys.argv[4]).read_text())

def truth():
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "bad.jpg"]
    return {path.name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in files}

began = time.perf_counter()
assert os.waitpid(child(update), 0)[1] == 0
seconds = time.perf_counter() - began
assert content() == truth()

chance = random.Random(2504)
killed, states, ended = 0, set(), False
while killed < kills:
    if killed % 5 == 0 or ended:  # from the start, every fifth time, and where nothing would be left to do
        (folder / ".pe-index" / "index.sqlite").unlink(missing_ok=True)
    if killed % 5 == 2:  # half of the files change places
        names = [f"{number:03d}.jpg" for number in range(0, count, 2)]
        for name in names:
            (folder / name).rename(folder / f"{name}.moving")
        for name, other in zip(names, names[1:] + names[:1]):
            (folder / f"{name}.moving").rename(folder / other)
    pid = child(update)
    time.sleep(chance.uniform(0.3 * seconds, 0.9 * seconds))
    os.kill(pid, signal.SIGKILL)
    ended = not os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    killed += not ended
    if killed % 2:
        states.add(tuple(sorted(content().items())))
assert os.waitpid(child(update), 0)[1] == 0
assert content() == truth()
assert os.waitpid(child(found_by_words), 0)[1] == 0
print(killed, len(states))
"""


FILES = 32  # eight commits, one of which each kill falls into


@pytest.mark.timeout(560)
def test_forty_kills_lose_and_double_nothing(checkpoint: Path, pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(FILES):
        content = pictures[number % len(pictures)].read_bytes()
        (folder / f"{number:03d}.jpg").write_bytes(content + bytes([number]))  # so that each is another file
    (folder / "clip.mp4").write_bytes(clip(60))
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    command = [sys.executable, "-c", HARNESS, folder, checkpoint, "40", tmp_path / "found.txt", str(FILES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed, states = map(int, done.stdout.split()[:2])
    assert killed == 40
    assert states >= 3  # it was killed at different points
