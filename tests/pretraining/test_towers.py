"""What is trained, step by step of section 2.1: masking, positions at another resolution, losses, captions."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.errors import CheckpointError
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.clip import CLIP, TextTransformer
from perception_encoder.models.vision_transformer import resample_table
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
from perception_encoder.pretraining import run, towers
from perception_encoder.pretraining import towers as module
from perception_encoder.pretraining.config import LoRA, MaskRegularization
from perception_encoder.pretraining.run import build_model, fit_positions, pretrain
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import (
    CachedTexts,
    CaptionVocabulary,
    TrainingTowers,
    add_adapters,
    encode_by_length,
)
from synthetic.builtin.rules import read_builtin
from tests.models.small import CORE, SIZE, TEXT, randomize
from tests.pretraining.toys import debug, gradients, small_batch, small_towers


def test_the_mask_loss_is_that_of_a_masked_pass_against_the_output_of_a_whole_one() -> None:
    towers, batch = small_towers(), small_batch()
    visual = towers.clip.visual
    pixels = batch.images[batch.masked].float() / 127.5 - 1
    whole = visual.forward_features(pixels)[:, 1:]
    tokens = visual.conv1(pixels).flatten(2).transpose(1, 2)
    tokens[batch.masks] = towers.mask_token
    tokens = torch.cat([visual.class_embedding.expand(len(tokens), 1, -1), tokens], 1) + visual.positional_embedding
    seen = visual.ln_post(visual.transformer(visual.ln_pre(tokens), visual.rope(SIZE, SIZE, pixels.device)))[:, 1:]
    expected = 1 - F.cosine_similarity(seen[batch.masks], whole[batch.masks], dim=-1).mean()
    actual = ContrastiveTask(towers, mask_weight=2.0).losses(batch)["mask"]
    torch.testing.assert_close(actual, 2 * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_change_neither_losses_nor_gradients(chunk: int) -> None:
    whole, chunked = small_towers(), small_towers(chunk)
    ours, theirs = (ContrastiveTask(towers).losses(small_batch()) for towers in (chunked, whole))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    actual, expected = gradients(chunked, sum(ours.values())), gradients(whole, sum(theirs.values()))
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_rank_without_a_masked_copy_adds_nothing() -> None:
    towers, batch = small_towers(), small_batch()
    none = dataclasses.replace(batch, masked=batch.masked[:0], masks=batch.masks[:0], masked_share=0.0)
    losses = ContrastiveTask(towers).losses(none)
    assert losses["mask"].item() == 0
    assert gradients(towers, sum(losses.values()))["mask_token"].abs().max() == 0


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_video_is_the_mean_of_its_frames(chunk: int | None) -> None:
    towers, batch = small_towers(chunk), small_batch(masks=False)
    videos = batch.images.unflatten(0, (4, 2))  # (B, F, 3, H, W)
    images, texts, _, mask = towers(videos, batch.tokens)
    torch.testing.assert_close(images, towers.clip.encode_video(to_float(videos)))
    frames = towers.clip.encode_image(to_float(videos[:, 0])), towers.clip.encode_image(to_float(videos[:, 1]))
    torch.testing.assert_close(images, (frames[0] + frames[1]) / 2)
    assert images.shape == (4, 16) and texts.shape == (8, 16) and mask is None
    task = ContrastiveTask(towers)
    positives = torch.eye(4, dtype=torch.bool)
    loss = task.losses(ImageTextBatch(videos, batch.tokens[:4], positives, positives))["contrastive"]
    assert gradients(towers, loss)["clip.visual.conv1.weight"].abs().max() > 0


def test_another_resolution_resamples_the_table_and_what_the_optimizer_knows_of_it() -> None:
    clip = CLIP(CORE, TEXT)
    randomize(clip)
    before = clip.visual.positional_embedding.detach().clone()
    expected = clip.visual.positions((6, 6)).detach()
    clip.visual.set_image_size(48)
    assert torch.equal(clip.visual.positional_embedding, expected) and clip.visual.config.image_size == 48
    assert torch.equal(expected[0], before[0])  # the class token's
    assert torch.equal(fit_positions("visual.positional_embedding.exp_avg", before, expected), expected)
    assert (resample_table(before.square(), 37) >= 0).all()  # second moments stay what they are
    with pytest.raises(CheckpointError, match=r"proj is \(3, 4\)"):
        fit_positions("visual.proj", torch.zeros(3, 4), torch.zeros(4, 4))


@pytest.mark.parametrize("adapted", [False, True])
def test_a_step_stays_on_the_model_s_device(adapted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU: what mixes it with the CPU raises."""
    monkeypatch.setattr(module, "trim", lambda tokens: tokens)  # which looks at values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    towers, meta = small_towers(chunk=3), torch.device("meta")
    if adapted:
        add_adapters(towers.clip, LoRA(rank=2), None, 0)
    task = ContrastiveTask(towers.to(meta))
    loss = task.losses(small_batch(masks=False).to(meta))["contrastive"]
    loss.backward()
    assert loss.device == meta
    trained = [parameter for parameter in towers.clip.parameters() if parameter.requires_grad]
    assert len(trained) > 10 and all(parameter.grad.device == meta for parameter in trained)


@torch.no_grad()
def test_captions_in_groups_of_like_length_encode_as_alone() -> None:
    model = create_model("builtin")
    tokens = Tokenizer(32)(["a", "a very long caption about nothing much at all", "two words", "x", "the end of it"])
    torch.testing.assert_close(encode_by_length(model, tokens), model.encode_text(tokens), rtol=1e-4, atol=1e-5)


CAPTIONS = ["a photo of a cup.", "a rose", "the cup, a kind of vessel"]


@torch.no_grad()
def test_a_narrowed_text_tower_gives_the_same_vectors_and_is_widened_again() -> None:
    model, tokenize = create_model("builtin"), Tokenizer(32)
    whole = model.text.token_embedding.weight.clone()
    expected = model.encode_text(tokenize(CAPTIONS))
    vocabulary = CaptionVocabulary(tokenize, CAPTIONS)
    vocabulary.narrow(model)
    assert len(model.text.token_embedding.weight) == len(tokenize(CAPTIONS).unique()) < 20
    assert model.text.token_embedding.weight.requires_grad
    torch.testing.assert_close(model.encode_text(vocabulary(CAPTIONS)), expected)
    vocabulary.widen(model)
    torch.testing.assert_close(model.encode_text(tokenize(CAPTIONS)), expected)
    table = model.text.token_embedding.weight
    assert table.shape == whole.shape
    kept = table.abs().sum(1) > 0
    assert torch.equal(kept.nonzero()[:, 0], tokenize(CAPTIONS).unique())
    assert torch.equal(table[kept], whole[kept])


def test_a_locked_text_tower_encodes_each_caption_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data have 111 captions: features are kept where so many fit, and the run draws more pairs."""
    monkeypatch.setenv("PE_DTYPE", "float32")
    encode, encoded = TextTransformer.forward, list[int]()
    monkeypatch.setattr(TextTransformer, "forward", lambda self, ids: encoded.append(len(ids)) or encode(self, ids))

    def losses(most: int, batch_size: int) -> list[float]:
        encoded.clear()
        monkeypatch.setattr(run, "MAX_CACHED", most)
        rows: list[dict[str, float]] = []
        config = dataclasses.replace(debug(), locked="text", batch_size=batch_size, masking=None)
        pretrain(config, [photos], tmp_path / f"{most}-{batch_size}", listener=rows.append, read=read_builtin)
        return [row["contrastive"] for row in rows]

    kept = losses(111, 32)
    assert encoded == [111] and len(kept) == 4
    assert losses(110, 32) == pytest.approx(kept, rel=1e-5) and len(encoded) == 16  # four groups a step
    losses(111, 16)
    assert len(encoded) == 16


LOCKED_TEXTS = ("a cup", "the rose, and a long caption about it", "an ant", "A  cup")


def cached_and_not(chunk: int | None = None) -> tuple[TrainingTowers, TrainingTowers, CaptionVocabulary]:
    """Towers with a locked text tower, with its embeddings cached and without, and the vocabulary."""
    clip = build_model(debug())
    vocabulary = CaptionVocabulary(Tokenizer(32), LOCKED_TEXTS)
    vocabulary.narrow(clip)
    clip.text.requires_grad_(False)
    cached = CachedTexts(clip.text, vocabulary.captions)
    return TrainingTowers(clip, chunk=chunk, cached=cached), TrainingTowers(clip, chunk=chunk), vocabulary


@pytest.mark.parametrize("chunk", [None, 2])
def test_cached_texts_change_neither_losses_nor_gradients(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "AT_ONCE", 2)
    monkeypatch.setenv("PE_DTYPE", "float32")
    cached, plain, vocabulary = cached_and_not(chunk)
    assert len(vocabulary.captions) == 3  # two captions are one row of tokens
    tokens = trim(vocabulary(["an ant", "a cup"]))
    assert tokens.shape[1] < 6
    positives = torch.eye(2).bool().repeat(4, 1)
    batch = ImageTextBatch(small_batch().images, tokens, positives, positives.T)
    ours, theirs = (ContrastiveTask(towers).losses(batch)["contrastive"] for towers in (cached, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    actual, expected = gradients(cached, ours), gradients(plain, theirs)
    assert actual.keys() == expected.keys() and not [name for name in actual if ".text." in name]
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_two_losses_have_disjoint_gradients() -> None:
    """The contrastive loss never sees a masked picture, the mask loss sees the whole one as a fixed target."""
    towers = small_towers()
    losses = ContrastiveTask(towers).losses(small_batch())
    alone = ContrastiveTask(towers).losses(small_batch(masks=False))
    assert losses.keys() == {"contrastive", "mask"} and alone.keys() == {"contrastive"}
    contrastive, expected = gradients(towers, losses["contrastive"]), gradients(towers, alone["contrastive"])
    assert "mask_token" not in contrastive and contrastive.keys() == expected.keys()
    assert all(torch.equal(contrastive[name], expected[name]) for name in expected)
    mask = gradients(towers, losses["mask"])
    assert "mask_token" in mask and mask["mask_token"].abs().max() > 0
    assert not [name for name in mask if "attn_pool" in name or "text" in name or name.endswith(("proj", "scale"))]


def test_training_fits_a_handful_of_pairs() -> None:
    """The loss falls to almost nothing on one batch: gradients reach both towers."""
    torch.manual_seed(0)
    task = ContrastiveTask(TrainingTowers(create_model("builtin")))
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ImageTextBatch(images, Tokenizer(32)(["a", "b", "c", "d"])[:, :4], *[torch.eye(4, dtype=torch.bool)] * 2)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = task.losses(batch)["contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 0.5 < losses[0]


def test_the_logit_scale_is_clamped() -> None:
    towers = TrainingTowers(create_model("builtin"))
    task = ContrastiveTask(towers)
    towers.clip.logit_scale.data.fill_(9.0)
    task.after_step()
    assert towers.clip.logit_scale.exp().item() == pytest.approx(100.0)


def test_a_mask_is_of_the_asked_ratio_on_one_image_in_sixteen() -> None:
    rows, masks = MaskRegularization().draw(64, 100, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 16, 32, 48] and masks.shape == (4, 100)
    assert masks.sum(1).tolist() == [40] * 4 and not torch.equal(masks[0], masks[1])
