"""Recipes by name: each is complete and has a debug form; `--set` is typed, validated, and never a silent no-op."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import BUILTIN, canonical_name, find_model
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.recipes import core_n16
from perception_encoder.recipes import RECIPES, debug_form, find_recipe, override, plan_recipe
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.training.devices import find_device
from perception_encoder.training.settings import describe_settings
from synthetic.builtin.recipes import builtin
from tests.pretraining.toys import debug

PAPER = [name for name in RECIPES if not re.search("builtin|finetune$|n16", name)]


def test_a_recipe_by_name() -> None:
    assert find_recipe("core_n16") == core_n16()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_config_with_a_debug_form_of_four_steps_and_a_plan(name: str) -> None:
    config = find_recipe(name)
    small = debug_form(config)
    assert type(small) is type(config)
    assert dataclasses.is_dataclass(config) and config.steps > small.steps == 4
    assert BUILTIN in (getattr(small, name, None) for name in ("model", "encoder", "initial"))
    assert RECIPES[name]
    planned = plan_recipe(config, find_device("h100"), min(8, config.batch_size))
    total, trained = planned.parameters
    assert sum(phase.steps for phase in planned.phases) == config.steps and 0 < trained <= total
    assert planned.hours() > 0 and all(phase.flops() > 0 for phase in planned.phases)
    assert {"weights", "optimizer", "activations", "images"} <= planned.memory().keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [("core_n61", "no recipe is called 'core_n61'; did you mean core"), ("resnet", "`pe train --list` shows them all")],
)
def test_an_unknown_name_shows_near_matches(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_recipe(name)


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


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_at_random_at_a_published_model_or_at_what_another_recipe_makes(name: str) -> None:
    steps = chain(name)
    first = find_recipe(steps[0])
    match first:
        case SpatialConfig():
            begins = find_model(first.model).timm is not None
        case DenseConfig():
            begins = canonical_name(first.encoder) is not None
        case _:
            begins = first.initial is None
    assert name not in PAPER or begins


@pytest.mark.parametrize("size", ["t16", "s16", "b16", "l14", "g14"])
def test_the_paper_s_order(size: str) -> None:
    """Small models: pretrain, distil, video finetune; the teacher is not distilled (section 2.4)."""
    distilled = [] if size == "g14" else [f"distill_{size}"]
    expected = [f"core_{size}", f"core_{size}_cooldown", *distilled, f"video_finetune_{size}"]
    assert chain(f"video_finetune_{size}") == expected
    last = {find_recipe(name).stages[-1].image_size for name in expected}
    assert last == {find_model(find_recipe(f"core_{size}").model).vision.image_size}


def test_a_debug_form_has_the_steps_of_its_recipe() -> None:
    first, last = (debug_form(find_recipe(name)) for name in ("ablation_1", "ablation_9"))
    assert (first.rope, first.attention_pool, first.masking, first.optimizer.name) == (False, False, None, "adamw")
    assert (last.rope, last.attention_pool, last.masking.ratio, last.optimizer.name) == (True, True, 0.4, "lamb")


def test_the_list_needs_no_torch() -> None:
    code = "import sys; from perception_encoder.recipes import RECIPES; sys.exit('torch' in sys.modules)"
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


@pytest.mark.parametrize("name", RECIPES)
def test_rate_steps_and_batch_size_are_set_in_every_recipe(name: str) -> None:
    """And every setting that is printed has a meaning, and can be set to what is printed."""
    config = find_recipe(name)
    changed = override(config, ["lr=0.125", "steps=40", "batch_size=96"])
    assert (changed.optimizer.lr, changed.steps, changed.batch_size) == (0.125, 40, 96)
    described = describe_settings(changed)
    values = {each.name: each.value for each in described}
    assert (values["lr"], values["steps"], values["batch_size"]) == ("0.125", "40", "96")
    assert [each.name for each in described if not each.meaning] == []
    assert len(values) == len(described) > 25
    on = [each for each in described if each.value and getattr(config, each.name.partition(".")[0], 0) is not None]
    assert override(changed, [f"{each.name}={each.value}" for each in on]) == changed


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
    with pytest.raises(ConfigError, match="--set steps=4: steps is 4; the run has 5 stages of at least one step each"):
        override(config, ["steps=4"])


@dataclasses.dataclass(frozen=True)
class Lists:
    """Settings of texts in lists."""

    names: tuple[str, ...] = ()
    pair: tuple[str, str] = ("a", "b")
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    maybe: tuple[str, ...] | None = None


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ('names=["a b", "c"]', "names", ("a b", "c")),
        ("names=txt, caption", "names", ("txt", "caption")),
        ("names=txt", "names", ("txt",)),
        ("names=[]", "names", ()),
        ('pair=["x", "y"]', "pair", ("x", "y")),
        ('words={"a": "b, c"}', "words", {"a": "b, c"}),
        ('maybe=["1", "null"]', "maybe", ("1", "null")),
        ("maybe=null", "maybe", None),
    ],
)
def test_lists_of_texts(setting: str, field: str, value: object) -> None:
    assert getattr(override(Lists(), [setting]), field) == value


@pytest.mark.parametrize("setting", ["names=[1]", 'names=["a", null]', "names=[", 'words={"a": 1}', "pair=[[1], 2]"])
def test_lists_of_other_values_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="is not of type"):
        override(Lists(), [setting])


def test_a_mapping_is_replaced_as_a_whole() -> None:
    changed = override(builtin(), ['streams.captions={"alt_text": 1, "caption": 0.5}', "streams.bad_share=0"])
    assert changed.streams.captions == {"alt_text": 1.0, "caption": 0.5} and changed.streams.bad_share == 0.0


def test_what_is_off_is_turned_on_by_a_setting_of_it() -> None:
    assert builtin().masking is None
    assert override(builtin(), ["masking.ratio=0.7"]).masking == MaskRegularization(ratio=0.7)
    assert override(debug(), ["masking=null", "augmentation=null"]).masking is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batchsize=64", "did you mean batch_size"),
        ("batch_size", "write name=value"),
        ("batch_size=many", "is not of type int"),
        ("batch_size=1.5", "is not of type int"),
        ("batch_size=true", "is not of type int"),
        ("optimizer.rate=1", "no setting is called rate"),
        ("optimizer=1", "is not of type OptimizerConfig"),
        ("batch_size.x=1", "has no settings"),
        ("augmentation.scale=[0.5]", "is not of type tuple"),
        ("stages.3.steps=1", "no setting is called 3; there are 0, 1, 2"),
        ("stages.0.step=1", "did you mean steps"),
        ("weights.flower=1", "did you mean flowers"),
        ("weights.flowers=much", "is not of type float"),
        ('streams.captions={"alt_text": "much"}', "is not of type float"),
        ("streams.captions={}", "a positive share to each"),
        ("streams.bad_share=2", "from 0 to 1"),
        ("optimizer.plain_lr=fast", "is not of type float or NoneType"),
        ("batch_size=null", "is not of type int"),
        ("checkpoint_every=0", "--set checkpoint_every=0: checkpoint_every is 0; it must be at least 1"),
        ("seed=-1", "must be at least 0"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(builtin(), [setting])
