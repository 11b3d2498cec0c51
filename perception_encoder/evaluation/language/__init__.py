"""Rule-based scorers of what language models answer: pure functions, each with its formula, range and source."""

from perception_encoder.evaluation.language.boxes import box_iou, box_iou_accuracy, parse_box
from perception_encoder.evaluation.language.caption_tokens import tokenize_caption
from perception_encoder.evaluation.language.captions import bleu, cider_d, cider_d_scores
from perception_encoder.evaluation.language.choices import (
    YesNoScores,
    extract_choice,
    multiple_choice,
    parse_yes_no,
    yes_no,
)
from perception_encoder.evaluation.language.short_answers import anls, normalize_answer, relaxed_accuracy, vqa_accuracy

__all__ = [
    "YesNoScores",
    "anls",
    "bleu",
    "box_iou",
    "box_iou_accuracy",
    "cider_d",
    "cider_d_scores",
    "extract_choice",
    "multiple_choice",
    "normalize_answer",
    "parse_box",
    "parse_yes_no",
    "relaxed_accuracy",
    "tokenize_caption",
    "vqa_accuracy",
    "yes_no",
]
