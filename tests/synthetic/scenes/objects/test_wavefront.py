"""Damaged OBJ files raise an error that names the file."""

from __future__ import annotations

import pytest

from perception_encoder.errors import MediaDecodeError
from synthetic.scenes.objects.wavefront import read_obj
from tests.synthetic.scenes.objects.conftest import files


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v 0 0 0\n",
        "v 0 0 0\nf 1 2 3\n",
        "v 0 0\nv 1 1 1\nf 1 1 1\n",
        "v a b c\n",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2\n",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n",
        "v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n",
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(MediaDecodeError, match=r"a\.obj: not a readable OBJ"):
        read_obj("a.obj", files(a_obj=text))
