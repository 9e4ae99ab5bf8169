"""`SelectiveConfig`: what it accepts, what it derives, and YAML both ways."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin.config import MODES, SelectiveConfig
from sllmr_plugin.errors import ConfigError, SLLMRError
from sllmr_plugin.regularizer.gates import FixedGate, JointGate, OpenGate
from sllmr_plugin.regularizer.losses import Distillation, Hinge
from sllmr_plugin.settings import Settings, choices_of, field_types

CHOICES = {
    name: choices_of(SelectiveConfig, name)
    for name in ("loss", "gate", "pair_rule", "uncertainty", "weight_scale", "score_space", "user_source", "pair_scope")
}
KINDS = st.one_of(
    st.tuples(st.sampled_from(["ranknet", "hinge"]), st.sampled_from(CHOICES["gate"])),
    st.tuples(st.sampled_from(CHOICES["loss"]), st.sampled_from(["auto", "none"])),
)
SCOPES = st.one_of(
    st.tuples(st.sampled_from(CHOICES["pair_scope"]), st.none()), st.tuples(st.just("batch"), st.integers(1, 10**6))
)
CONFIGS = st.builds(
    lambda kinds, pairs, **others: SelectiveConfig(
        loss=kinds[0], gate=kinds[1], pair_scope=pairs[0], pairs_per_step=pairs[1], **others
    ),
    KINDS,
    SCOPES,
    **{name: st.sampled_from(names) for name, names in CHOICES.items() if name not in ("loss", "gate", "pair_scope")},
    weight=st.floats(0, 1e6),
    margin=st.none() | st.floats(0, 100),
    users_per_step=st.none() | st.integers(1, 10**6),
    candidates_per_user=st.integers(2, 10**6),
    pairs_per_user=st.integers(1, 10**6),
    in_batch_pairs=st.booleans(),
    mc_samples=st.integers(2, 100),
    cold_threshold=st.integers(0, 100),
    tail_quantile=st.floats(0, 1),
    warmup_epochs=st.integers(0, 100),
    decay=st.floats(0, 1, exclude_min=True),
    seed=st.none() | st.integers(0, 2**64),
)


@given(config=CONFIGS)
@settings(max_examples=60, deadline=None)
def test_dictionaries_and_pickles_give_the_config_back(config):
    assert SelectiveConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert set(config.to_dict()) == {field.name for field in dataclasses.fields(SelectiveConfig)}


@given(config=CONFIGS)
@settings(max_examples=40, deadline=None)
def test_yaml_gives_the_config_back(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    config.to_yaml(path)
    assert SelectiveConfig.from_yaml(path) == config
    assert yaml.safe_load(path.read_text()) == config.to_dict()


def test_a_few_lines_of_yaml_are_enough(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("gate: none\nloss: hinge\nweight: 0.25\n")
    assert SelectiveConfig.from_yaml(path) == SelectiveConfig(gate="none", loss="hinge", weight=0.25)


def test_numpy_numbers_become_pythons_own(tmp_path):
    grid = SelectiveConfig(weight=np.logspace(-3, -1, 3)[1], users_per_step=np.int64(32), seed=np.uint32(5))
    assert (type(grid.weight), type(grid.users_per_step), type(grid.seed)) == (float, int, int)
    grid.to_yaml(tmp_path / "config.yaml")
    assert SelectiveConfig.from_yaml(tmp_path / "config.yaml") == SelectiveConfig(
        weight=0.01, users_per_step=32, seed=5
    )


BAD = {
    **{name: ["nonsense", None, 1] for name in CHOICES},
    "weight": [-0.1, float("nan"), float("inf"), "0.1", True, None],
    "margin": [-1, float("nan"), "1"],
    "users_per_step": [0, -3, 2.5, True, "8"],
    "candidates_per_user": [1, 0, None],
    "pairs_per_user": [0, 1.0],
    "pairs_per_step": [0, 2.5, "8"],
    "mc_samples": [1],
    "cold_threshold": [-1],
    "warmup_epochs": [-1, 0.5],
    "tail_quantile": [-0.01, 1.01, float("nan"), None],
    "decay": [0, 1.5, -1],
    "kd_temperature": [0, -1.0, float("nan"), float("inf"), "2", True, None],
    "in_batch_pairs": ["yes", 1, None],
    "seed": [-1, 0.5, "1", True],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"SelectiveConfig: {name}=.*Correct these fields\.$"):
        SelectiveConfig(**{name: value})


def test_all_problems_are_named_at_once():
    values = {name: values[0] for name, values in BAD.items()}
    with pytest.raises(ConfigError) as caught:
        SelectiveConfig(**values)
    assert all(f"{name}=" in str(caught.value) for name in values)
    assert isinstance(caught.value, SLLMRError)
    assert isinstance(caught.value, ValueError)


def test_a_limit_of_all_users_is_refused_where_each_has_its_own():
    assert SelectiveConfig(pair_scope="batch", pairs_per_step=16).pairs_per_step == 16
    with pytest.raises(ConfigError, match=r"pairs_per_step=16 limits all users together: use pair_scope='batch'"):
        SelectiveConfig(pairs_per_step=16)


def test_the_edges_of_the_ranges_are_allowed():
    config = SelectiveConfig(weight=0, margin=0, users_per_step=1, candidates_per_user=2, pairs_per_user=1, decay=1)
    assert config.replace(tail_quantile=0).tail_quantile == 0
    assert config.replace(tail_quantile=1, mc_samples=2, cold_threshold=0, seed=0).tail_quantile == 1


@pytest.mark.parametrize(
    ("loss", "score_space", "margin", "expected"),
    [
        ("ranknet", "logit", None, 0.0),
        ("ranknet", "probability", None, 0.0),
        ("hinge", "logit", None, 1.0),
        ("hinge", "probability", None, 0.1),
        ("ranknet", "logit", 2, 2.0),
        ("hinge", "probability", 0, 0.0),
    ],
)
def test_the_margin_has_a_default_for_every_loss(loss, score_space, margin, expected):
    config = SelectiveConfig(loss=loss, score_space=score_space, margin=margin)
    assert config.resolved_margin == expected
    assert config.margin == margin  # what was asked for stays readable


def test_active_pairwise_and_gated_by_mode():
    table = {}
    for mode in MODES:
        config = SelectiveConfig.of_mode(mode)
        table[mode] = config.active, config.pairwise, config.gated
    assert table == {
        "none": (False, True, True),
        "global": (True, True, False),
        "pointwise_mse": (True, False, False),
        "pointwise_bce": (True, False, False),
        "kd": (True, False, False),
        "joint": (True, True, True),
        "gated": (True, True, True),
    }
    assert not SelectiveConfig(gate="none", weight=0).active


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_earlier_versions_means_what_it_meant(mode, tmp_path):
    fields = {"weight": 0.4, "gate": "fixed", "seed": 3, "margin": 0.5}
    expected = {
        "none": {"weight": 0.0, "gate": "fixed"},
        "global": {"gate": "none"},
        "pointwise_mse": {"loss": "mse", "gate": "none"},
        "pointwise_bce": {"loss": "bce", "gate": "none"},
        "kd": {"loss": "kd", "gate": "none"},
        "joint": {"gate": "joint"},
        "gated": {"gate": "fixed"},
    }[mode]
    wanted = SelectiveConfig(**{**fields, **expected})
    assert wanted.mode == mode
    with pytest.warns(DeprecationWarning, match=f"mode='{mode}' is deprecated; (write|leave it out)"):
        assert SelectiveConfig(mode=mode, **fields) == wanted
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"mode": mode, **fields}))
    with pytest.warns(DeprecationWarning, match="old.yaml: mode="):
        assert SelectiveConfig.from_yaml(tmp_path / "old.yaml") == wanted
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        assert SelectiveConfig(**fields).replace(mode=mode) == wanted


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_mode_of_earlier_versions_takes_the_place_of_the_one_before():
    assert SelectiveConfig(mode="global").replace(mode="gated") == SelectiveConfig()
    assert SelectiveConfig(mode="kd").replace(mode="joint") == SelectiveConfig(gate="joint")


def test_fields_that_make_another_row_of_a_mode_are_refused():
    with pytest.raises(ConfigError, match="do not belong to mode='gated'.*'global'"):
        SelectiveConfig.of_mode("gated", {"gate": "none"})
    with pytest.raises(ConfigError, match="do not belong to mode='global'.*'kd'"):
        SelectiveConfig.of_mode("global", {"loss": "kd"})
    with pytest.raises(ConfigError, match="mode='gate' is not one of"):
        SelectiveConfig.of_mode("gate")


@pytest.mark.parametrize("gate", ["fixed", "disagreement", "joint", FixedGate()])
def test_a_loss_of_single_items_has_no_gate(gate):
    with pytest.raises(ConfigError, match="looks at single items: use gate='none'"):
        SelectiveConfig(loss="mse", gate=gate)


def test_kinds_are_chosen_by_name_class_or_instance(tmp_path):
    assert SelectiveConfig(loss=Hinge, gate=FixedGate) == SelectiveConfig(loss="hinge", gate="fixed")
    gate, loss = JointGate(), Distillation(4.0)
    assert SelectiveConfig(gate=gate).gate is gate
    assert SelectiveConfig(loss=loss).replace(weight=0.1).loss is loss
    assert not SelectiveConfig(loss=loss).pairwise
    with pytest.raises(ConfigError, match=r"gate=JointGate\(\) cannot be written to a file. Give its class a name"):
        SelectiveConfig(gate=gate).to_yaml(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"gate='fixt' is not one of .*did you mean 'fixed'"):
        SelectiveConfig(gate="fixt")
    with pytest.raises(TypeError):
        SelectiveConfig("hinge")  # keyword-only


def test_an_open_gate_is_one_by_name_class_or_object():
    for gate in ("none", OpenGate, OpenGate()):
        config = SelectiveConfig(gate=gate)
        assert (config.row, config.gated) == ("global", False)
        assert not SelectiveConfig(loss="mse", gate=gate).gated


def test_a_config_shows_what_differs_from_the_defaults():
    config = SelectiveConfig(gate="none", weight=0.5, seed=1)
    assert repr(config) == "SelectiveConfig(gate='none', weight=0.5, seed=1)"
    assert eval(repr(config)) == config
    assert repr(SelectiveConfig()) == "SelectiveConfig()"


@pytest.mark.parametrize(("warmup", "decay", "weight"), list(itertools.product([0, 1, 3], [1.0, 0.5, 0.9], [0.0, 2.0])))
def test_the_weight_of_an_epoch_after_warm_up_and_decay(warmup, decay, weight):
    config = SelectiveConfig(weight=weight, warmup_epochs=warmup, decay=decay)
    expected, current = [], weight
    for epoch in range(6):
        if epoch < warmup:
            expected.append(0.0)
            continue
        expected.append(current)
        current *= decay
    assert [config.weight_at(epoch) for epoch in range(6)] == pytest.approx(expected, rel=1e-12)


def test_mode_none_has_no_weight_in_any_epoch():
    assert [SelectiveConfig.of_mode("none").weight_at(epoch) for epoch in range(3)] == [0.0] * 3


@pytest.mark.parametrize(("rows", "users"), [(1, 1), (31, 1), (32, 2), (64, 4), (256, 16), (4096, 16)])
def test_users_of_a_step_follow_the_batch_unless_given(rows, users):
    assert SelectiveConfig().users_in_step(rows) == users  # one for every 16 rows, from 1 to 16
    assert SelectiveConfig(users_per_step=5).users_in_step(rows) == 5


def test_replace_makes_a_checked_copy():
    config = SelectiveConfig(seed=4)
    assert config.replace(weight=0.3) == SelectiveConfig(weight=0.3, seed=4)
    assert config.weight == SelectiveConfig().weight
    with pytest.raises(ConfigError, match="weight=-1"):
        config.replace(weight=-1)
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        config.replace(wieght=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.weight = 1.0


def test_unknown_keys_get_a_hint():
    with pytest.raises(ConfigError, match=r"unknown key 'pair_per_user'; did you mean 'pairs_per_user'\?"):
        SelectiveConfig.from_dict({"pair_per_user": 3})
    with pytest.raises(ConfigError, match=r"unknown key 'zzz'; valid keys are loss, gate, weight"):
        SelectiveConfig.from_dict({"zzz": 3})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- gate\n- weight\n", "got list"),
        ("", "got NoneType"),
        ("gate: [none\n", "not valid YAML"),
        ("wait: 1\n", "unknown key 'wait'"),
        ("weight: heavy\n", "weight='heavy'"),
    ],
)
def test_files_that_hold_no_config_are_refused(tmp_path, text, problem):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        SelectiveConfig.from_yaml(path)


@dataclasses.dataclass(frozen=True)
class Sized(Settings):
    """Settings with an argument that is not a field, whose annotation is not looked up: Python 3.10 cannot."""

    size: int = 1
    former: dataclasses.InitVar[Nowhere] = None  # noqa: F821

    def __post_init__(self, former):
        super().__post_init__()


@dataclasses.dataclass(frozen=True)
class Named(Sized):
    name: str = "a"


def test_fields_are_those_of_the_class_and_its_bases_and_nothing_else():
    assert field_types(Named) == {"size": int, "name": str}
    assert Named(size=2).size == 2
    with pytest.raises(ConfigError, match="name=3"):
        Named(name=3)
