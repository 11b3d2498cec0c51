"""One video of a set of scenes: frames, depth, masks, tracks, what happened and when, and what may be said of it.

Its JSON has the fields of the PE Video Dataset (section 2.3 of the paper) and, beside them, everything that is known.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import av
import numpy as np

from perception_encoder.formats.shards import json_bytes
from perception_encoder.scenes.camera import Camera
from perception_encoder.scenes.graph import Graph, describe, find_boxes
from perception_encoder.scenes.layout import LayoutConfig, aim
from perception_encoder.scenes.models import About, Library
from perception_encoder.scenes.motion import AWAY, Event, observe, orbit, plan, simulate
from perception_encoder.scenes.narration import ask_what_happened, tell
from perception_encoder.scenes.questions import Question
from perception_encoder.scenes.renderer import Picture
from perception_encoder.scenes.samples import Maker, Sample, encode_image, millimetres
from perception_encoder.scenes.scene import Scene, corners_of

CATEGORY = "Object Interactions"
HIGH = 0.3  # radii above the floor: the camera need not show what is higher
ORBIT = (0.5, 1.2)  # radians, from the first frame to the last


@dataclass(frozen=True)
class Clip:
    """A video before it is written."""

    scene: Scene
    """As it is in the last frame."""
    cameras: list[Camera]
    poses: np.ndarray
    """(F, n, 7)."""
    events: list[Event]


class Videos(Maker):
    """Makes the videos of a split."""

    what = "video"

    def __init__(self, library: Library, split: str, side: int, seed: int, frames: int = 24, rate: int = 8) -> None:
        super().__init__(library, split, side, seed, LayoutConfig(least=2, most=4, again=0.2))
        self.frames, self.rate = frames, rate
        balls = {about.kind for about in library.about.values() if about.shape == "sphere"}
        self.balls = [kind for kind in self.layouts.kinds if kind in balls]

    def attempt(self, number: int, generator: np.random.Generator) -> Sample | None:
        """Make a video; None where it did not go as planned, begins without a thing, or hides one in the end."""
        clip = self._invent(generator)
        if clip is None:
            return None
        pictures: list[Picture] = []
        with self.renderer.stage(clip.scene) as stage:
            graph = describe(clip.scene, stage.look(clip.cameras[-1], self.side).mask, self.library)
            if graph is None:
                return None
            for poses, camera in zip(clip.poses, clip.cameras, strict=True):
                stage.move(poses)
                pictures.append(stage.draw(camera, self.side))
                if not pictures[0].mask.any():
                    return None  # all things are yet to fall: there is none to follow
        asked = ask_what_happened(graph, clip.events, generator)
        return self._write(f"{self.split}-video-{number:07}", clip, pictures, graph, asked)

    def _invent(self, generator: np.random.Generator) -> Clip | None:
        rolls = self.balls and generator.random() < 0.4
        first = self.layouts.choose(generator, self.balls if rolls else list(self.layouts.kinds))
        scene = self.layouts.invent(generator, first.key)
        abouts = [self.library.about[thing.model] for thing in scene.things]
        plans = plan(scene, abouts, self.frames / self.rate, generator)
        poses = simulate(scene, abouts, plans, self.frames, self.rate)
        events = observe(poses, plans, abouts, scene.radius, self.rate)
        if events is None:
            return None
        corners = swept(poses, abouts, scene.radius)
        if any(((corners - plane.corner) @ plane.axes[2]).min() < -1e-3 * scene.radius for plane in scene.planes[1:]):
            return None  # through a wall
        away = np.array(scene.camera.eye) - np.array(scene.camera.target)
        camera = aim(corners[None], away / np.linalg.norm(away), scene.camera.angle)
        cameras = [camera] * self.frames
        if generator.random() < 0.4:
            total = float(generator.uniform(*ORBIT)) * (1 if generator.random() < 0.5 else -1)
            cameras = orbit(camera, total, self.frames)
            events = [*events, Event(action="orbits", object=None, start=0.0, end=(self.frames - 1) / self.rate)]
        things = tuple(
            replace(thing, position=tuple(pose[:3]), turn=tuple(pose[3:]))
            for thing, pose in zip(scene.things, poses[-1].tolist(), strict=True)
        )
        radius = float(np.linalg.norm(corners, axis=1).max())
        return Clip(replace(scene, things=things, camera=cameras[-1], radius=radius), cameras, poses, events)

    def _write(self, key: str, clip: Clip, pictures: list[Picture], graph: Graph, asked: Sequence[Question]) -> Sample:
        video = encode_mp4([picture.rgb for picture in pictures], self.rate)
        human, model = tell(graph, clip.events)
        metadata: dict[str, Any] = {
            **self.common(graph, (human, model), asked),
            "category": CATEGORY,
            "duration": self.frames / self.rate,
            "human_caption": human,
            "keywords": sorted({node.kind for node in graph.nodes} | {event.action for event in clip.events}),
            "model_caption": model,
            "size_in_bytes": len(video),
            "video_id": key,
            "frames": self.frames,
            "rate": self.rate,
            "events": [asdict(event) for event in clip.events],
            "number_of_events": len(clip.events),
            "tracks": track(pictures, clip),
            "cameras": [camera.to_json(self.side) for camera in clip.cameras],
        }
        files = (
            ("mp4", video),
            ("depth.png", encode_image(millimetres(np.concatenate([picture.depth for picture in pictures])), "PNG")),
            ("mask.png", encode_image(np.concatenate([picture.mask for picture in pictures]), "PNG")),
            ("json", json_bytes(metadata)),
        )
        return Sample(key, files, metadata)


def swept(poses: np.ndarray, abouts: Sequence[About], radius: float) -> np.ndarray:
    """The corners (m, 3) of the boxes of all things in all frames in which they are not high above the scene."""
    corners = corners_of(poses[..., :3], poses[..., 3:], np.array([about.size for about in abouts]))  # (F, n, 8, 3)
    return corners[corners[..., 2].min(axis=2) < HIGH * radius].reshape(-1, 3)


def track(pictures: Sequence[Picture], clip: Clip) -> list[dict[str, Any]]:
    """Of each thing, in each frame: its frame in the picture (null where it is not seen), pixels, place and turn."""
    found = [find_boxes(picture.mask, clip.poses.shape[1]) for picture in pictures]
    tracks = []
    for number, of_one in enumerate(zip(*found, strict=True)):
        poses = clip.poses[:, number].tolist()
        tracks.append(
            {
                "id": number + 1,
                "boxes": [seen[0] if seen else None for seen in of_one],
                "pixels": [seen[1] if seen else 0 for seen in of_one],
                "positions": [pose[:3] if pose[2] < AWAY / 2 else None for pose in poses],
                "turns": [pose[3:] for pose in poses],
            }
        )
    return tracks


def encode_mp4(frames: Sequence[np.ndarray], rate: int) -> bytes:
    """Frames (H, W, 3) as H.264 in MP4; the same bytes for the same frames."""
    stream = io.BytesIO()
    # macroblock trees read beyond frames that are under 128 px, so that each encoding would differ
    options = {"crf": "18", "threads": "1", "preset": "fast", "x264-params": "mbtree=0"}
    with av.open(stream, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=rate, options=options)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()
