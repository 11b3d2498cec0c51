"""One image of a dataset of scenes, with depth, mask, scene graph, captions and questions."""

from __future__ import annotations

from typing import Any

import numpy as np

from perception_encoder.dense_prediction.detection.detections import run_lengths
from perception_encoder.formats.shards import json_bytes
from synthetic.scenes.language.graph import SceneGraph, build_graph
from synthetic.scenes.language.phrases import image_captions
from synthetic.scenes.language.questions import image_questions
from synthetic.scenes.layout.sampling import LayoutConfig
from synthetic.scenes.samples.sample import SampleMaker, SceneSample, encode_image, millimetres


class ImageMaker(SampleMaker):
    """Makes the images of a dataset."""

    media = "image"
    layout = LayoutConfig()

    def attempt(self, number: int, generator: np.random.Generator) -> SceneSample | None:
        """Make an image; None if too little of an object is visible."""
        scene, side = self.sampler.sample(generator), self.config.side
        with self.renderer.stage(scene) as stage:
            objects = stage.draw_objects(scene.camera, side)
            graph = build_graph(scene, objects.mask, self.library)
            if graph is None:
                return None
            image = stage.shade(objects)
        captions = image_captions(graph, generator)
        questions = image_questions(graph, sorted(self.sampler.keys), generator)
        metadata = {**self.common_metadata(graph, captions, questions), "camera": scene.camera.to_json(side)}
        files = (
            ("jpg", encode_image(image.rgb, "JPEG")),
            ("depth.png", encode_image(millimetres(image.depth), "PNG")),
            ("mask.png", encode_image(image.mask, "PNG")),
            ("json", json_bytes(metadata)),
        )
        return SceneSample(f"{self.config.split}-{number:07}", files, metadata, _annotations(graph, image.mask))


def _annotations(graph: SceneGraph, mask: np.ndarray) -> tuple[dict[str, Any], ...]:
    """COCO's annotations of the objects: box, area, and the mask in run lengths."""
    return tuple(
        {
            "category": node.class_name,
            "bbox": [*node.box[:2], node.box[2] - node.box[0], node.box[3] - node.box[1]],
            "area": node.pixels,
            "iscrowd": 0,
            "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask == node.id)},
        }
        for node in graph.nodes
    )
