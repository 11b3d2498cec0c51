"""One video of a dataset of scenes: frames, depth, masks, tracks, events, captions and questions.

Its JSON has the fields of the PE Video Dataset (section 2.3 of the paper) and the exact ground truth.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import av
import numpy as np

from perception_encoder.formats.shards import json_bytes
from synthetic.scenes.language.graph import SceneGraph, build_graph, find_box
from synthetic.scenes.language.narration import video_captions, video_questions
from synthetic.scenes.layout.camera import Camera
from synthetic.scenes.layout.sampling import LayoutConfig, aim_camera
from synthetic.scenes.layout.scene import Scene, box_corners
from synthetic.scenes.objects.models import ObjectInfo
from synthetic.scenes.rendering.motion import (
    AWAY,
    FRAME_RATE,
    Event,
    observe_events,
    orbit_camera,
    plan_events,
    simulate_events,
)
from synthetic.scenes.rendering.renderer import RenderedImage
from synthetic.scenes.samples.sample import SampleMaker, SceneSample, encode_image, millimetres

CATEGORY = "Object Interactions"
HIGH = 0.3  # radii above the floor: the camera need not show higher objects
ORBITS, ORBIT = 0.4, (0.5, 1.2)  # how often the camera orbits, and by how many radians from first to last frame
ROLLS = 0.4  # how often a ball is the first object


@dataclass(frozen=True)
class SimulatedVideo:
    """A video before it is rendered."""

    scene: Scene
    """The scene in the last frame."""
    cameras: list[Camera]
    poses: np.ndarray
    """(F, n, 7)."""
    events: list[Event]


class VideoMaker(SampleMaker):
    """Makes the videos of a dataset."""

    media = "video"
    layout = LayoutConfig(least=2, most=4, again=0.2)

    def attempt(self, number: int, generator: np.random.Generator) -> SceneSample | None:
        """Make a video; None if an event failed, the first frame is empty, or the last one hides an object."""
        video = self._simulate(generator)
        rendered = video and self._render(video)
        if not (video and rendered):
            return None
        graph, images = rendered
        questions = video_questions(graph, video.events, generator)
        captions = video_captions(graph, video.events)
        mp4 = _encode_mp4([image.rgb for image in images])
        key = f"{self.config.split}-video-{number:07}"
        metadata: dict[str, Any] = {
            **self.common_metadata(graph, captions, questions),
            "category": CATEGORY,
            "duration": self.config.frames / FRAME_RATE,
            "human_caption": captions[0],
            "keywords": sorted({node.class_name for node in graph.nodes} | {event.action for event in video.events}),
            "model_caption": captions[1],
            "size_in_bytes": len(mp4),
            "video_id": key,
            "frames": self.config.frames,
            "rate": FRAME_RATE,
            "events": [asdict(event) for event in video.events],
            "number_of_events": len(video.events),
            "tracks": _tracks(images, video.poses),
            "cameras": [camera.to_json(self.config.side) for camera in video.cameras],
        }
        files = (
            ("mp4", mp4),
            ("depth.png", encode_image(millimetres(np.concatenate([image.depth for image in images])), "PNG")),
            ("mask.png", encode_image(np.concatenate([image.mask for image in images]), "PNG")),
            ("json", json_bytes(metadata)),
        )
        return SceneSample(key, files, metadata)

    def _simulate(self, generator: np.random.Generator) -> SimulatedVideo | None:
        classes, frames = self.sampler.keys, self.config.frames
        balls = [name for name, keys in classes.items() if self.library.info[keys[0]].shape == "sphere"]
        rolls = balls and generator.random() < ROLLS
        first = self.sampler.choose(generator, balls if rolls else list(classes))
        scene = self.sampler.sample(generator, first.key)
        infos = [self.library.info[item.model] for item in scene.objects]
        plans = plan_events(scene, infos, frames / FRAME_RATE, generator)
        poses = simulate_events(scene, infos, plans, frames)
        events = observe_events(poses, plans, infos, scene.radius)
        if events is None:
            return None
        corners = _swept_corners(poses, infos, scene.radius)
        if any(((corners - plane.corner) @ plane.axes[2]).min() < -1e-3 * scene.radius for plane in scene.planes[1:]):
            return None  # through a wall
        away = np.array(scene.camera.eye) - np.array(scene.camera.target)
        camera = aim_camera(corners[None], away / np.linalg.norm(away), scene.camera.angle)
        cameras = [camera] * frames
        if generator.random() < ORBITS:
            total = float(generator.uniform(*ORBIT)) * (1 if generator.random() < 0.5 else -1)
            cameras = orbit_camera(camera, total, frames)
            events = [*events, Event(action="orbits", object=None, start=0.0, end=(frames - 1) / FRAME_RATE)]
        objects = tuple(
            replace(item, position=tuple(pose[:3]), turn=tuple(pose[3:]))
            for item, pose in zip(scene.objects, poses[-1].tolist(), strict=True)
        )
        radius = float(np.linalg.norm(corners, axis=1).max())
        scene = replace(scene, objects=objects, camera=cameras[-1], radius=radius)
        return SimulatedVideo(scene, cameras, poses, events)

    def _render(self, video: SimulatedVideo) -> tuple[SceneGraph, list[RenderedImage]] | None:
        """Render the frames; None if the last one hides an object, or the first one is empty."""
        images: list[RenderedImage] = []
        with self.renderer.stage(video.scene) as stage:
            last = stage.draw_objects(video.cameras[-1], self.config.side)
            graph = build_graph(video.scene, last.mask, self.library)
            if graph is None:
                return None
            for poses, camera in zip(video.poses, video.cameras, strict=True):
                stage.move(poses)
                images.append(stage.draw(camera, self.config.side))
                if not images[0].mask.any():
                    return None  # all objects are yet to fall, so nothing can be tracked
        return graph, images


def _swept_corners(poses: np.ndarray, infos: Sequence[ObjectInfo], radius: float) -> np.ndarray:
    """The corners (m, 3) of the boxes of all objects in all frames in which they are not high above the scene."""
    corners = box_corners(poses[..., :3], poses[..., 3:], np.array([info.size for info in infos]))  # (F, n, 8, 3)
    return corners[corners[..., 2].min(axis=2) < HIGH * radius].reshape(-1, 3)


def _tracks(images: Sequence[RenderedImage], poses: np.ndarray) -> list[dict[str, Any]]:
    """Each object's box (null if it is not visible), pixels, position (null before it falls) and turn in each frame."""
    tracks = []
    for number, path in enumerate(poses.swapaxes(0, 1).tolist(), start=1):
        masks = [image.mask == number for image in images]
        tracks.append(
            {
                "id": number,
                "boxes": [find_box(mask) for mask in masks],
                "pixels": [int(mask.sum()) for mask in masks],
                "positions": [pose[:3] if pose[2] < AWAY / 2 else None for pose in path],
                "turns": [pose[3:] for pose in path],
            }
        )
    return tracks


def _encode_mp4(frames: Sequence[np.ndarray]) -> bytes:
    """Frames (H, W, 3) as H.264 in MP4; the same bytes for the same frames."""
    stream = io.BytesIO()
    # macroblock trees read beyond frames that are under 128 px, so that each encoding would differ
    options = {"crf": "18", "threads": "1", "preset": "fast", "x264-params": "mbtree=0"}
    with av.open(stream, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()
