"""Models of the tests, loaded by name in the engine's own processes; they note each question in `ENGINE_LOG`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.errors import EndpointError
from perception_encoder.preprocess.conversation import Message, Reply, Sampling
from tests.clips import number_of

ECHO = "python:tests.video_data_engine.models:echo"
SLEEPER = "python:tests.video_data_engine.models:sleeper"


class Echo(Assistant):
    """Tells the numbers of the frames it sees, or repeats a text's title and captions.

    A title says how it fails: "deadly", "broken", "slow" and "mute" always, "shy" until the second attempt, "down" as a
    service. `ENGINE_KILL` names the question that kills the engine (`ENGINE_PID`); no summary is written while the file
    `ENGINE_HOLD` exists.
    """

    name = "echo"
    questions = 0

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        return [Reply(self._answer(conversation[-1]), 1, 1, True) for conversation in conversations]

    def _answer(self, message: Message) -> str:
        text = str(message.content[-1])
        media = message.media
        images = [image for item in media for image in getattr(item, "images", [item])]
        answer = f"frames {' '.join(str(number_of(image)) for image in images)}" if images else self._summary(text)
        note("seen" if images else "summary", answer)
        self.questions += 1
        if self.questions == int(os.environ.get("ENGINE_KILL", 0)):
            os.kill(int(os.environ["ENGINE_PID"]), signal.SIGKILL)
        return answer

    def _summary(self, text: str) -> str:
        lines = text.splitlines()
        title = next((line.removeprefix("Title: ") for line in lines if line.startswith("Title: ")), "-")
        note("attempt", title)
        match title:
            case "deadly":
                os._exit(7)
            case "broken":
                return str(1 // 0)
            case "slow":
                time.sleep(60)
            case "mute":
                return " … "
            case "down":
                raise EndpointError("the service is down")
            case "shy" if attempts("shy") < 2:
                raise EndpointError("not yet", wait=0.0)
        while (hold := os.environ.get("ENGINE_HOLD")) and os.path.exists(hold):
            time.sleep(0.05)
        if pause := os.environ.get("ENGINE_PAUSE"):
            time.sleep(float(pause))
        return f"{title}: {next(line for line in lines if line.startswith('Video caption: '))[15:]}"


def echo() -> Echo:
    """Make the model."""
    return Echo()


echo_again = echo
"""The same under another name, which gives it a process of its own."""


def sleeper() -> Echo:
    """Make the model, in a minute."""
    time.sleep(60)
    return Echo()


def deadly_start() -> Echo:
    """End the process that makes the model."""
    os._exit(3)


def note(name: str, text: str) -> None:
    if log := os.environ.get("ENGINE_LOG"):
        with open(log, "a") as file:
            file.write(f"{name}\t{text}\n")


def notes(name: str) -> list[str]:
    """What was noted under a name, in order."""
    lines = [line.split("\t") for line in Path(os.environ["ENGINE_LOG"]).read_text().splitlines()]
    return [text for item, text in lines if item == name]


def attempts(title: str) -> int:
    return notes("attempt").count(title)
