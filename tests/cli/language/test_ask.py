"""`pe ask`: questions about files of every kind, streaming, JSON, chats and clear errors."""

from __future__ import annotations

import io
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.load import load_language_model
from perception_encoder.preprocess import connection
from perception_encoder.preprocess.conversation import Message, Sampling, ask
from perception_encoder.preprocess.image import open_image
from tests.pdfs import pdf
from tests.video_data_engine import servers
from tests.video_data_engine.models import ECHO
from tests.web import serving


@pytest.fixture
def run_ask(run_pe, language_run: Path):
    """Run `pe ask` with the tiny model and short answers."""
    return lambda *arguments: run_pe("ask", "-m", language_run, "--max-tokens", "8", *arguments)


def shown(text: str) -> str:
    """A text as it is printed: control characters but line breaks are escaped."""
    escaped = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped) + "\n"


def test_the_answer_is_streamed(run_ask, language_run: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_language_model(ModelSpec(language_run)).generate(
        [ask("what?", [open_image(media / "0.png")])], Sampling(max_tokens=8)
    )
    run = run_ask(media / "0.png", "what?")
    assert (run.status, run.stdout, run.stderr) == (output.OK, shown(expected[0].text), "")
    pieces = iter(["The answer\nis ", "\x1b[31m42", "."])
    monkeypatch.setattr(LanguageModel, "generate_stream", lambda self, conversation, sampling: pieces)
    assert run_ask(media / "0.png", "what?").stdout == "The answer\nis \\x1b[31m42.\n"


def test_json_tells_all_about_the_answer(run_ask, language_run: Path, media: Path) -> None:
    run = run_ask(media / "0.png", media / "clip.mp4", "what?", "--json", "--frames", "3")
    value = json.loads(run.stdout)
    assert value.pop("seconds") > 0
    assert value.pop("prompt_tokens") > 4 * 4
    answer, tokens, finished = value.pop("answer"), value.pop("tokens"), value.pop("finished")
    assert isinstance(answer, str) and 0 < tokens <= 8 and finished == (tokens < 8)
    inputs = [str(media / "0.png"), str(media / "clip.mp4")]
    assert value == {"question": "what?", "model": language_run.name, "inputs": inputs, "cut": 0}


def test_models_of_every_form_answer(run_pe, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_pe("ask", "-m", ECHO, media / "clip.mp4", "what?", "--frames", "2")
    assert (run.status, run.stdout) == (output.OK, "frames 0 50\n"), run.stderr
    run = run_pe("ask", "-m", "http://127.0.0.1:9/v1", media / "0.png", "what?")
    assert run.status == output.ERROR and "names no model; add it" in run.stderr
    run = run_pe("ask", "-m", ECHO, media / "0.png", "what?", "--tiles", "4")
    assert run.status == output.ERROR and "tiles images itself; omit it" in run.stderr
    pytest.importorskip("openai", reason="openai is not installed; install the extra engine")
    with servers.endpoint(servers.well) as (address, requests):
        run = run_pe("ask", "-m", f"{address}#any", media / "0.png", "what is it?")
        assert (run.status, run.stdout) == (output.OK, "1 images: WHAT IS IT?\n") and requests[0]["model"] == "any"
        run = run_pe("caption", "-m", f"{address}#any", media / "0.png", media / "clip.mp4", "--prompt", "say")
        assert [line.split("\t")[1] for line in run.stdout.splitlines()] == ["1 images: SAY", "8 images: SAY"]


def prompt_tokens(run) -> int:
    assert run.status == output.OK, run.stderr
    return json.loads(run.stdout)["prompt_tokens"]


def test_options_reach_the_model(run_ask, media: Path) -> None:
    image, video, report = media / "0.png", media / "clip.mp4", media / "report.pdf"
    thumbnail = prompt_tokens(run_ask(image, "what?", "--json", "--tiles", "0"))
    assert prompt_tokens(run_ask(image, "what?", "--json", "--tiles", "4")) - thumbnail == 4 * 4
    three = prompt_tokens(run_ask(video, "what?", "--json", "--frames", "3"))
    assert three - thumbnail == 2 * 4
    assert prompt_tokens(run_ask(video, "what?", "--json", "--start", "0.1", "--end", "0.16")) - thumbnail == 2 * 4
    assert prompt_tokens(run_ask(report, "what?", "--json")) == three
    assert prompt_tokens(run_ask(report, "what?", "--json", "--pages", "1,3")) - thumbnail == 4
    assert prompt_tokens(run_ask(media, "what?", "--json", "--frames", "1")) - thumbnail == 2 * 4  # three files


def test_a_chat_is_about_the_same_media_which_are_encoded_once(
    run_ask, language_run: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_language_model(ModelSpec(language_run))
    conversation, expected = ask("what?", [open_image(media / "0.png")]), ""
    for question in (None, "sure?"):
        conversation += [Message("user", (question,))] if question else []
        answer = model.generate([conversation], Sampling(max_tokens=8))[0].text
        conversation.append(Message("assistant", (answer,)))
        expected += shown(answer)
    seen: list[LanguageModel] = []
    stream = LanguageModel.generate_stream
    monkeypatch.setattr(
        LanguageModel, "generate_stream", lambda self, *rest: [seen.append(self), *stream(self, *rest)][1:]
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("what?\n\nsure?\n"))
    assert run_ask(media / "0.png", "-i").stdout == expected
    assert len(seen) == 2 and seen[0] is seen[1] and seen[0].encoded == model.encoded == 5
    monkeypatch.setattr("sys.stdin", io.StringIO("sure?\n"))
    assert run_ask(media / "0.png", "what?", "-i").stdout == expected


def test_images_and_documents_by_url(run_ask, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        body = (media / request.path.lstrip("/")).read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    with serving(answer) as url:
        for name in ("0.png", "report.pdf"):
            address = f"{url}/{name}"
            local = json.loads(run_ask(media / name, "what?", "--json").stdout)
            with monkeypatch.context() as patch:
                patch.setattr(connection, "is_public", lambda address: True)
                remote = json.loads(run_ask(address, "what?", "--json").stdout)
            assert (remote["answer"], remote["inputs"]) == (local["answer"], [address])
            refused = run_ask(address, "what?")
            assert refused.status == output.ERROR and address in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png", "what?"], "gone.png: no such file or directory"),
        (["bad.png", "what?"], "bad.png: "),
        (["secret.pdf", "what?"], "secret.pdf: is encrypted; save it without a password first"),
        (["cut.pdf", "what?"], "cut.pdf: is a damaged PDF: "),
        (["report.pdf", "what?", "--pages", "4"], "report.pdf: has pages 1 to 3; there is no page 4"),
        (["report.pdf", "what?", "--pages", "3-1"], "pages is '3-1'; it must be pages from 1, such as 1-3,7"),
        (["clip.mp4", "what?", "--start", "9"], "clip.mp4: lasts 2.400 s; there is nothing at 9 s"),
        (["http://127.0.0.1:1/a.png", "what?"], "127.0.0.1"),
        (["0.png"], 'give a question after the images and videos: pe ask photo.jpg "What is this?"'),
        (["gone.png"], "give a question after the images and videos"),
        ([], "give a question after the images and videos"),
        (["0.png", "what?", "-i", "--json"], "--interactive prints answers as they arrive; omit --json"),
        (["clip.mp4", "what?", "--frames", "60", "--max-tokens", "8000"], "do not fit the context of 512"),
    ],
)
def test_bad_input_is_one_clear_error(
    run_ask, media: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(media)
    Path("bad.png").write_bytes(b"no image")
    Path("secret.pdf").write_bytes(pdf([(100, 100)], encrypted=True))
    Path("cut.pdf").write_bytes(pdf([(100, 100)])[:150])
    run = run_ask(*arguments)
    assert run.status == output.ERROR and run.stdout == ""
    assert message in run.stderr and run.stderr.count("\n") == 1


def test_a_question_may_be_the_name_of_a_directory(run_ask, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(media)
    Path("copy").mkdir()
    answer = json.loads(run_ask("0.png", "copy", "--json").stdout)
    assert (answer["question"], answer["inputs"]) == ("copy", ["0.png"])
    alone = run_ask("copy")
    assert alone.status == output.ERROR and "give a question after the images and videos" in alone.stderr


def test_a_cut_prompt_is_reported(run_ask, media: Path) -> None:
    run = run_ask(media / "0.png", "why? " * 200, "--json")
    assert json.loads(run.stdout)["cut"] > 0
    assert "its longest text lost" in run.stderr
