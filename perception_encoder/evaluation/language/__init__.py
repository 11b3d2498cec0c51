"""Rule-based scorers of language models' answers: pure functions, each with its formula, range and source."""

from perception_encoder.evaluation.language.answers import (
    YesNoScores,
    anls,
    box_iou,
    box_iou_accuracy,
    extract_choice,
    multiple_choice,
    normalize_answer,
    parse_box,
    parse_yes_no,
    relaxed_accuracy,
    vqa_accuracy,
    yes_no,
)
from perception_encoder.evaluation.language.captions import bleu, cider_d, cider_d_scores, tokenize_caption

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
