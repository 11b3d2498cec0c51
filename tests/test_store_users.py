"""Every user of the store is killed, damaged, given other settings and a second writer, and ends as if nothing was."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import warnings
from itertools import product
from pathlib import Path

import pytest

from perception_encoder.errors import OutputError, PerceptionEncoderError
from perception_encoder.files import holding, is_temporary
from tests import processes
from tests.damage import copy_tree, damage, flip_bit
from tests.store_users import USERS, work, write_inputs
from tests.test_damaged_files import INPUTS, problem

KILLS = int(os.environ.get("PE_KILLS", "12"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs")
    write_inputs(path)
    return path


def run_killed(name: str, inputs: Path, root: Path, kills: int = 2) -> object:
    """Run a user in processes that are killed, the last one in the middle, in ROOT/half; return the right result."""
    process = processes.start(work, name, inputs, root, kills, log=root / "log")
    assert process.statuses() == [0], process.output()
    return pickle.loads((root / "result").read_bytes())


@pytest.mark.parametrize("name", USERS)
def test_a_killed_run_ends_with_the_result_of_an_unbroken_one(name: str, inputs: Path, tmp_path: Path) -> None:
    run_killed(name, inputs, tmp_path, KILLS)


@pytest.mark.parametrize("name", USERS)
def test_damage_is_an_error_that_names_the_file_or_is_repaired(
    name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, victim, user = run_killed(name, inputs, tmp_path), tmp_path / "diary.txt", USERS[name]
    good = tmp_path / ("half" if user.lock else "whole")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = sorted(path for path in good.glob(user.files) if path.is_file() and not is_temporary(path))
    kinds = ("empty", "cut", "garbage", "link")
    draw = random.Random(name)
    problems = []
    cases = [*product(files, kinds), *((None, number) for number in range(7, 7 + INPUTS))]
    cases += [(None, "bit")] * (0 if user.editable else 2 * INPUTS)
    for file, kind in cases:
        root = tmp_path / "damaged"
        copy_tree(good, root)
        path = root / (file or draw.choice(files)).relative_to(good)
        victim.write_text("dear diary")
        content = path.read_bytes()
        if isinstance(kind, int):
            damage(path, draw, kind)
        elif kind == "bit":
            kind = flip_bit(path, draw)
        elif kind == "link":
            path.unlink()
            path.symlink_to(victim)
        else:
            path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\xffx" * 50}[kind])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = user.run(inputs, root, "one")
            if (kind in ("empty", "link") or str(kind).startswith("bit")) and found != whole:
                problems.append(f"{path.relative_to(root)} {kind}: another result")
        except PerceptionEncoderError as error:
            if found := problem(error, path, root):
                problems.append(f"{path.relative_to(root)} {kind}: {found}")
            elif "; " not in str(error):
                problems.append(f"{path.relative_to(root)} {kind}: no remedy: {error}")
        except Exception as error:
            problems.append(f"{path.relative_to(root)} {kind}: {problem(error, path, root)}")
        assert victim.read_text() == "dear diary", (path, kind)
        shutil.rmtree(root)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", [name for name, user in USERS.items() if user.lock])
def test_another_setting_and_a_second_writer_are_refused(name: str, inputs: Path, tmp_path: Path) -> None:
    whole, directory, user = run_killed(name, inputs, tmp_path), tmp_path / "half", USERS[name]
    (lock,) = directory.glob(user.lock)
    with (
        holding(lock, "held"),
        pytest.raises(OutputError, match="another process is writing"),
    ):
        user.run(inputs, directory, "one")
    if user.fixed:
        with pytest.raises(OutputError, match=r"was made with .*one.*, not .*two.*; "):
            user.run(inputs, directory, "two")
    else:
        user.run(inputs, directory, "two")
    assert user.run(inputs, directory, "one") == whole
