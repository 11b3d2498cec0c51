"""Recipes by name: each is complete and has a debug form; `--set` is typed, validated, and never a silent no-op."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import perception_encoder as pe
from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.models.registry import BUILTIN, canonical_name, find_model
from perception_encoder.pretraining.config import LoRA, MaskRegularization, PretrainingConfig
from perception_encoder.pretraining.recipes import finetune
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.stages import ConfiguredRecipe, configure, list_recipes
from perception_encoder.training.checkpoint import BEST
from perception_encoder.training.cost import find_device
from perception_encoder.training.settings import describe_settings, override
from synthetic.builtin.recipes import builtin
from tests.recipes import find_recipe

RECIPES = list_recipes()
PAPER = [name for name in RECIPES if not re.search("builtin|finetune$|n16", name)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_debug_form_a_plan_and_settings_with_a_meaning(name: str) -> None:
    """Every setting that is printed can be set to what is printed."""
    stage, config = configure(name)
    small = stage.debug(config)
    assert type(small) is type(config)
    assert dataclasses.is_dataclass(config) and config.steps > small.steps == 4
    assert BUILTIN in (getattr(small, name, None) for name in ("model", "encoder", "initial"))
    assert RECIPES[name]
    planned = ConfiguredRecipe(stage, config).plan("h100")
    total, trained = planned.parameters
    assert sum(phase.steps for phase in planned.phases) == config.steps and 0 < trained <= total
    assert planned.hours() > 0 and all(phase.flops() > 0 for phase in planned.phases)
    assert {"weights", "optimizer", "activations", "images"} <= planned.memory().keys()
    changed = override(config, ["lr=0.125", "steps=40", "batch_size=96"])
    assert (changed.optimizer.lr, changed.steps, changed.batch_size) == (0.125, 40, 96)
    described = describe_settings(changed)
    values = {item.name: item.value for item in described}
    assert (values["lr"], values["steps"], values["batch_size"]) == ("0.125", "40", "96")
    assert [item.name for item in described if not item.meaning] == []
    assert len(values) == len(described) > 25
    on = [item for item in described if item.value and getattr(config, item.name.partition(".")[0], 0) is not None]
    assert override(changed, [f"{item.name}={item.value}" for item in on]) == changed


def chain(name: str) -> list[str]:
    """The recipes that a recipe builds on, from the first one, by where each begins and `pe train` writes."""
    config = find_recipe(name)
    initial = getattr(config, "initial", None)
    if initial is None or canonical_name(initial) is not None:
        return [name]
    match = re.fullmatch(r"runs/(\w+)/(model|language|head)\.safetensors", initial)
    assert match and match[1] in RECIPES, f"{name} begins at {initial}, which no recipe makes"
    before = find_recipe(match[1])
    model = "model" if match[2] == "model" else "encoder"
    assert getattr(before, model) == getattr(config, model) and not (before.half and not config.half)
    assert getattr(before, "decoder", None) == getattr(config, "decoder", None)
    return [*chain(match[1]), name]


def test_every_recipe_begins_at_random_at_a_published_model_or_at_what_another_recipe_makes() -> None:
    for name in RECIPES:
        match first := find_recipe(chain(name)[0]):
            case SpatialConfig():
                begins = find_model(first.model).timm is not None
            case DenseConfig():
                begins = canonical_name(first.encoder) is not None
            case _:
                begins = first.initial is None
        assert name not in PAPER or begins, name


@pytest.mark.parametrize("size", ["b16", "g14"])
def test_the_paper_s_order(size: str) -> None:
    """Small models: pretrain, distil, video finetune; the teacher is not distilled (section 2.4)."""
    distilled = [] if size == "g14" else [f"distill_{size}"]
    expected = [f"core_{size}", f"core_{size}_cooldown", *distilled, f"video_finetune_{size}"]
    assert chain(f"video_finetune_{size}") == expected
    last = {find_recipe(name).stages[-1].image_size for name in expected}
    assert last == {find_model(find_recipe(f"core_{size}").model).vision.image_size}


def test_the_list_needs_no_torch() -> None:
    code = "import sys, perception_encoder as pe; sys.exit(not pe.list_recipes() or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_changed_in_a_copy() -> None:
    config = builtin()
    changed = override(config, ["batch_size=64", "optimizer.lr=1e-3", "augmentation.scale=[0.5, 1]", "model = x"])
    assert (changed.batch_size, changed.optimizer.lr, changed.augmentation.scale) == (64, 1e-3, (0.5, 1.0))
    assert changed.model == "x"
    assert config == builtin()
    changed = override(config, ["stages.1.steps=7", "weights.flowers=0.5", "optimizer.plain_lr=null"])
    assert [stage.steps for stage in changed.stages] == [config.stages[0].steps, 7, config.stages[2].steps]
    assert changed.weights == {**config.weights, "flowers": 0.5} and changed.optimizer.plain_lr is None
    assert override(changed, ["optimizer.plain_lr=1"]).optimizer.plain_lr == 1.0
    assert changed.fingerprint() != config.fingerprint() != config.fingerprint(["one more sample"])


def test_a_short_run_has_a_short_warm_up_unless_one_is_asked_for() -> None:
    config = find_recipe("finetune")
    assert override(config, [f"steps={config.warmup}"]).warmup == config.warmup == 30
    assert override(config, {"steps": 29}).warmup == 2
    assert override(config, ["steps=5", "lr=1e-3"]).warmup == 0
    for settings in (["warmup=31", "steps=20"], ["steps=20", "warmup=31"]):
        assert override(config, settings).warmup == 31  # the run refuses it


def test_stages_share_the_steps_as_they_did() -> None:
    def steps_of(config: PretrainingConfig) -> list[int]:
        return [stage.steps for stage in config.stages]

    config = find_recipe("core_g14")
    assert steps_of(override(config, [f"steps={config.steps}"])) == steps_of(config)
    assert steps_of(override(config, ["steps=25"])) == [10, 8, 4, 2, 1]
    assert steps_of(override(config, ["steps=5"])) == [1] * 5
    for steps in range(5, 60):
        shares = steps_of(override(config, [f"steps={steps}"]))
        assert sum(shares) == steps and min(shares) >= 1
    with pytest.raises(ConfigError, match="--set steps=4: steps is 4"):
        override(config, ["steps=4"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batchsize=64", "did you mean batch_size"),
        ("batch_size", "write name=value"),
        ("batch_size=1.5", "expected an integer"),
        ("optimizer=1", "optimizer is 1; expected 'lamb' or"),
        ("batch_size.x=1", "is not a setting"),
        ("augmentation.scale=[0.5]", r"expected a list of 2; write a list as \[0.9,0.95\]$"),
        ("optimizer.betas=0.9,0.95", r"expected a list; write a list as \[0.9,0.95\]$"),
        ("stages.3.steps=1", "no setting is called 3; known: 0, 1, 2"),
        ("stages.0.step=1", "did you mean steps"),
        ("weights.flower=1", "did you mean flowers"),
        ('streams.captions={"alt_text": "much"}', "expected a number"),
        ("streams.captions={}", "a positive share to each"),
        ("streams.bad_share=2", "streams.bad_share is 2.0; it must be from 0 to 1"),
        ("checkpoint_every=0", "--set checkpoint_every=0: checkpoint_every is 0; it must be at least 1"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(builtin(), [setting])


def test_settings_from_python() -> None:
    changed = override(finetune(), {"lora": 16, "optimizer.lr": 1, "augmentation": None, "initial": Path("x")})
    assert (changed.lora, changed.optimizer.lr) == (LoRA(rank=16), 1.0)
    assert (changed.augmentation, changed.initial) == (None, "x")
    for value in (LoRA(rank=4, targets="mlp"), {"rank": 4, "targets": "mlp"}):
        assert override(finetune(), {"lora": value}).lora == LoRA(rank=4, targets="mlp")
    typed = override(finetune(), ["lora=4", "lora=null", 'masking={"every": 2}', "optimizer=sgd", "image_size=64"])
    assert (typed.lora, typed.masking, typed.optimizer.name) == (None, MaskRegularization(every=2), "sgd")
    assert typed.stages[0].image_size == 64
    assert override(builtin(), {"augmentation.scale": (0.5, 1), "steps": 30}).augmentation.scale == (0.5, 1.0)
    for name, value in (("lora", "many"), ("steps", 1.5), ("optimizer.betas", [1]), ("validation", True)):
        with pytest.raises(ConfigError, match=f"^{name}=.*; expected "):
            override(finetune(), {name: value})


def test_a_training_from_python(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    settings = {"parallel.chunk": 4, "validation.share": 0.25}
    trained = pe.train(
        "finetune", photos, tmp_path / "run", settings=settings, debug=True, listener=rows.append, lora=2, batch_size=8
    )
    assert [row["step"] for row in rows if "contrastive" in row] == [1, 2, 3, 4]
    assert trained.weights == tmp_path / "run" / "model.safetensors" and trained.best == tmp_path / "run" / BEST
    assert pe.load(str(trained.weights)).encode_texts(["a cup"]).shape == (1, 256)
    assert str(trained.weights) in trained.example and trained.to_dict()["best"] == str(trained.best)
    record = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (record["lora"]["rank"], record["batch_size"], record["parallel"]["chunk"]) == (2, 8, 4)
    with pytest.raises(ConfigError, match=r"lra=16: .*did you mean lora"):
        pe.train("finetune", photos, tmp_path / "other", lra=16)
    with pytest.raises(ConfigError, match="did you mean finetune, "):
        pe.train("fine_tune", photos)
    with pytest.raises(DataError, match="no data"):
        pe.train("finetune", out=tmp_path / "other")
    with pytest.raises(ConfigError, match="spatial training reads --data"):
        pe.train("spatial_builtin", shards="x.tar", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("recipe", ["depth", "language_custom"])
def test_micro_batches_are_only_of_pairs(recipe: str) -> None:
    with pytest.raises(ConfigError, match="only runs on pairs have micro-batches"):
        configure(recipe, {"parallel.chunk": 2})
    assert configure("finetune", {"parallel.chunk": 2})[1].parallel.chunk == 2


def test_a_plan_from_python() -> None:
    plan = pe.plan("core_g14", devices=512, device="h200", steps=1000)
    assert (plan.device, plan.devices, sum(phase.steps for phase in plan.phases)) == (find_device("h200"), 512, 1000)
    assert plan.to_dict()["hours"] == plan.hours() and plan.to_dict()["parameters"]["trained"] == plan.parameters[1]
    with pytest.raises(ConfigError, match="no device is called 'h10'"):
        pe.plan("core_g14", device="h10")
