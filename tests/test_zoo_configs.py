"""The model zoo's files: every one composes, wrong ones say what is wrong, and a written one reads back."""

import dataclasses
import gzip
import itertools
import re

import pandas as pd
import pytest

from sllmr_plugin import ScoreTable, wrap
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.errors import (
    BackboneError,
    ConfigError,
    CoverageError,
    DataError,
    DataSetWarning,
    MissingDataError,
)
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.experiments import files as zoo_files
from sllmr_plugin.experiments.data import DataSource, load_source
from sllmr_plugin.experiments.experiment import compose
from sllmr_plugin.experiments.files import zoo_folder, zoo_names
from sllmr_plugin.experiments.running import list_zoo
from sllmr_plugin.zoo.deepctr import BACKBONES, build_model

MODELS = ["autoint", "dcn", "dcnv2", "deepfm", "din", "xdeepfm"]
DATA = ["amazon_beauty", "amazon_sports", "amazon_toys", "demo", "movielens_1m", "video_games"]


def write(path, text):
    path.write_text(text)
    return str(path)


def test_the_zoo_has_the_backbones_and_data_sets_of_the_paper():
    assert zoo_names("models") == MODELS
    assert zoo_names("data") == DATA
    assert zoo_names("settings") == ["llm-cf", "quick", "small"]


@pytest.mark.parametrize(("model", "data", "setting"), list(itertools.product(MODELS, DATA, [None, "small"])))
def test_every_file_composes_with_every_other(model, data, setting):
    experiment = compose(model=model, data=data, setting=setting)
    assert (experiment.backbone, experiment.data.name) == (model, data)
    small = setting == "small"
    assert experiment.config.weight == 0.1
    assert experiment.config.cold_threshold == 3
    training = experiment.training
    assert (training.embedding_dim, training.batch_size) == ((16, 256) if small else (64, 128))
    assert (training.learning_rate, training.history_length) == (3e-3 if small else 1e-3, 20)
    assert experiment.model.about
    assert experiment.data.about


@pytest.mark.parametrize("model", MODELS)
def test_the_arguments_of_the_files_build_the_model_they_say(model):
    arguments = compose(model=model, data="demo").training.model_arguments
    data = load_source(compose(model=model, data="demo").data, reads=())[0]
    built = build_model(model, data, embedding_dim=4, arguments=arguments)
    widths = [layer.out_features for layer in built.dnn.linears]
    assert tuple(widths) == arguments["dnn_hidden_units"]


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - set(MODELS)))
def test_every_other_backbone_goes_by_its_name(name):
    assert compose(model=name.upper(), data="demo").backbone == name


def test_later_files_win_and_each_key_knows_its_place(tmp_path):
    data = write(
        tmp_path / "d.yaml", "data:\n  name: d\nconfig:\n  weight: 0.3\ntraining:\n  epochs: 4\n  negatives: 5\n"
    )
    model = write(tmp_path / "m.yaml", "model:\n  backbone: nfm\ntraining:\n  epochs: 6\n  batch_size: 7\n")
    experiment = compose(model=model, data=data, setting="small", assignments=["training.batch_size=8"])
    training = experiment.training
    assert (training.embedding_dim, experiment.config.weight, training.negatives) == (16, 0.3, 5)
    assert (training.epochs, training.batch_size, training.learning_rate) == (6, 8, 3e-3)
    assert experiment.origins["training.embedding_dim"] == "model_zoo_configs/small.yaml, line 8"
    assert experiment.origins["config.weight"] == f"{data}, line 4"
    assert experiment.origins["training.epochs"] == f"{model}, line 4"
    assert experiment.origins["training.batch_size"] == "-o training.batch_size=8"
    shown = experiment.explained().splitlines()
    assert next(line for line in shown if " epochs:" in line).split() == ["epochs:", "6", "#", f"{model},", "line", "4"]
    assert next(line for line in shown if " margin:" in line).split() == ["margin:", "null", "#", "default"]


def test_arguments_are_merged_key_by_key():
    assignments = ["model.arguments.cin_layer_size=[8]", "model.arguments={l2_reg_cin: 1e-4}"]
    experiment = compose(model="xdeepfm", data="demo", assignments=assignments)
    assert experiment.training.model_arguments == {
        "dnn_hidden_units": (256, 256),
        "cin_layer_size": (8,),
        "l2_reg_cin": 1e-4,
    }


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("1e-3", "learning_rate", 0.001),
        ("1E-3", "learning_rate", 0.001),
        ("2", "learning_rate", 2.0),
        (".5", "dropout", 0.5),
        ("null", "test_users", None),
        ("~", "test_users", None),
        ("+12", "batch_size", 12),
    ],
)
def test_numbers_are_read_as_what_they_mean(text, field, value, tmp_path):
    file = write(tmp_path / "m.yaml", f"model: {{backbone: nfm}}\ntraining:\n  {field}: {text}\n")
    for experiment in (
        compose(model=file, data="demo"),
        compose(model="nfm", data="demo", assignments=[f"training.{field}={text}"]),
    ):
        read = getattr(experiment.training, field)
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            '  batch_size: "128"',
            "line 3: training.batch_size: '128' is text, but a whole number is wanted; write 128",
        ),
        ("  batch_size: 1:30", "'1:30' is text, but a whole number"),  # 90 in YAML 1.1
        ("  batch_size: 010", "'010' is text"),  # 8 in YAML 1.1
        ("  batch_size: 1_000", "'1_000' is text"),
        ("  batch_size: true", "True is true or false, but a whole number is wanted"),
        ("  batch_size: 12.5", "12.5 is a number, but a whole number is wanted"),
        ("  batch_size: [1]", "[1] is a list, but a whole number"),
        ("  learning_rate: .inf", "inf is not a finite number"),
        ("  device: 0", 'put it in quotes ("0")'),
        ("  test_users: none", "write null"),
        ("  bach_size: 1", "line 3: unknown key 'training.bach_size'; did you mean 'training.batch_size'?"),
        ("  model_arguments: {}", "unknown key 'training.model_arguments'"),
        ("  epochs: 1\n  epochs: 2", "line 4: 'training.epochs' is there twice (first in line 3); delete one."),
        ("  batch_size: *x", "line 3: not valid YAML (aliases (*name) are not read here)"),
        ("  batch_size: [", "not valid YAML"),
        ("  batch_size: !!python/name:os.system", "not valid YAML (could not determine a constructor"),
        ("  1: 2", "line 3: a key is not plain text"),
        ("  batch_size: 0", "batch_size: 0 must be at least 1"),
        ("  dropout: 1.5", "dropout: 1.5 must lie in [0, 1)"),
        ("  learning_rate: -1", "learning_rate: -1.0 must be above 0"),
        ("trainng:\n  epochs: 1", "line 4: unknown key 'trainng.epochs'; did you mean 'training.epochs'?"),
        ("config:\n  weight: -1", "weight: -1.0 must be at least 0"),
        ("config:\n  gate: [a]", "gate: ['a'] is not one of 'auto'"),
        ("data:\n  expected: {user: 3}", "expected.user=3 names none of users, items, interactions"),
        ("data:\n  split: random", "split: 'random' is not one of 'leave-last-out', 'column'"),
        ("data: 3", "line 3: 'data' is a section and has no value; the keys of data are name, "),
        ("run:\n  seeds: [1, 1]", "seeds=[1, 1] must be one or more different numbers"),
        ("zzz: 3", "the sections are model, data, config, training, start, run."),
    ],
)
def test_a_wrong_file_says_what_where_and_what_to_do(line, told, tmp_path):
    file = write(tmp_path / "my.yaml", f"model: {{backbone: nfm}}\ntraining:\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        compose(model=file, data="demo")
    assert told in str(caught.value)
    assert "my.yaml" in str(caught.value)


def test_what_a_file_cannot_say_is_named(tmp_path):
    with pytest.raises(ConfigError, match="data.name is missing"):
        compose(model="nfm", data=write(tmp_path / "d.yaml", "config:\n  weight: 1\n"))
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read \(No such file"):
        compose(model="nfm", data=str(tmp_path / "nowhere.yaml"))
    with pytest.raises(ConfigError, match="holds no `section:`"):
        compose(model=write(tmp_path / "m.yaml", "- nfm\n"), data="demo")
    (tmp_path / "latin.yaml").write_bytes(b"model: {about: \xe9}")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        compose(model=str(tmp_path / "latin.yaml"), data="demo")


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"model": "deepfn"}, BackboneError, "did you mean 'deepfm'"),
        ({"data": "amazon_beaty"}, ConfigError, "no 'amazon_beaty' under data; did you mean 'amazon_beauty'"),
        ({"setting": "smal"}, ConfigError, "did you mean 'small'"),
        ({"model": None}, ConfigError, "no model is named"),
        ({"data": None}, ConfigError, "no data set is named"),
        ({"config": "x.yaml"}, ConfigError, "names model, data and setting itself"),
        ({"assignments": ["config.weight"]}, ConfigError, "is not KEY=VALUE"),
        ({"assignments": ["weight=1"]}, ConfigError, "-o weight=1: unknown key 'weight'; did you mean 'config.weight'"),
        (
            {"assignments": ["training.embedding_dim=15"]},
            BackboneError,
            "multiple of 2. training.embedding_dim is set in",
        ),
        (
            {"assignments": ["model.arguments.att_head_num=3"]},
            BackboneError,
            "embedding_dim=64; take a positive multiple of 3",
        ),
        ({"assignments": ["model.arguments.dnn_hiden_units=[1]"]}, ConfigError, "did you mean 'dnn_hidden_units'"),
        ({"assignments": ["model.arguments.dnn_hidden_units=64"]}, ConfigError, "a list of whole numbers is wanted"),
        ({"assignments": ["model.arguments.dnn_dropout=0.1"]}, ConfigError, "it is the dropout of the training"),
        ({"assignments": ["model.arguments.task=regression"]}, ConfigError, "click models are binary"),
        ({"assignments": ["model.arguments.a.b=1"]}, ConfigError, "autoint has no argument 'a.b'"),
    ],
)
def test_a_wrong_argument_names_the_right_one(given, error, told):
    with pytest.raises(error, match=re.escape(told)):
        compose(**{"model": "autoint", "data": "demo", **given})


def test_a_written_experiment_reads_back_as_itself(tmp_path):
    assignments = [
        "data.about='1e-3'",
        "data.source=yes",
        "config.margin=0.5",
        "run.seeds=[3, 1]",
        "training.device=cpu",
    ]
    experiment = compose(model="xdeepfm", data="amazon_toys", setting="small", assignments=assignments)
    read = compose(config=write(tmp_path / "e.yaml", experiment.to_yaml()))
    assert read == experiment
    assert read.data.about == "1e-3"
    assert read.data.source == "yes"
    assert read.name == experiment.name
    assert compose(config=write(tmp_path / "shown.yaml", experiment.explained())) == experiment
    # every key is written, so that nothing of another version's base.yaml shows through
    assert set(read.origins.values()) <= {
        place for place in read.origins.values() if place.startswith(str(tmp_path / "e.yaml"))
    }


def test_the_name_tells_experiments_apart_but_not_their_seeds():
    def name(*assignments):
        return compose(model="deepfm", data="demo", assignments=assignments).name

    assert name() == name("run.seeds=[1, 2]") == name("data.root=elsewhere") == name("model.about=x")
    others = {
        name(),
        name("config.weight=0.3"),
        name("training.epochs=1"),
        name("model.arguments.dnn_hidden_units=[8]"),
        name("data.split=column"),
    }
    assert len(others) == 5


def test_settings_tell_runs_with_other_arguments_apart():
    plain, deep = RunSettings(), RunSettings(model_arguments={"dnn_hidden_units": [8]})
    assert dataclasses.asdict(plain) != dataclasses.asdict(deep)
    assert plain == RunSettings(model_arguments={})


def test_the_files_are_found_in_the_package_first(tmp_path, monkeypatch):
    package = tmp_path / "site" / "sllmr_plugin"
    monkeypatch.setattr(zoo_files, "__file__", str(package / "experiments" / "files.py"))
    with pytest.raises(ConfigError, match="is neither in"):
        zoo_folder()
    for folder in (tmp_path / "site" / "model_zoo_configs", package / "model_zoo_configs"):
        folder.mkdir(parents=True)
        (folder / "base.yaml").write_text("")
        assert zoo_folder() == folder


def test_the_list_names_everything_and_where_it_is(tmp_path):
    (tmp_path / "amazon_toys").mkdir()
    for name in ("interactions.csv", "items.parquet"):
        (tmp_path / "amazon_toys" / name).touch()
    listed = list_zoo(str(tmp_path)).splitlines()
    assert [line.split()[0] for line in listed if line.startswith("  ")] == [*MODELS, "by", *DATA]
    assert next(line for line in listed if "amazon_toys" in line).endswith(f"({tmp_path / 'amazon_toys'})")
    assert next(line for line in listed if "amazon_beauty" in line).endswith(f"(not in {tmp_path / 'amazon_beauty'})")


@pytest.fixture
def source(tmp_path):
    """Give four users with four items each, and scores of the first three, as files."""
    folder = tmp_path / "mine"
    folder.mkdir()
    pairs = [(f"u{user}", f"i{user + step}") for user in range(4) for step in range(4)]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item_id": [f"i{item}" for item in range(9)]}).to_csv(folder / "items.csv.gz", index=False)
    scores = [(f"u{user}", f"i{item}", item / 10) for user in range(3) for item in (7, 8)]
    pd.DataFrame(scores, columns=["user_id", "item_id", "score"]).to_parquet(folder / "llm_scores.parquet")
    return DataSource("mine", root=str(tmp_path))


def test_a_source_finds_files_of_any_form(source):
    data, scores = load_source(dataclasses.replace(source, scores_note="made up"))
    assert (data.n_users, data.n_items, len(data.test), len(data.valid)) == (4, 9, 4, 4)
    assert len(scores.candidates) == 6
    assert scores.origin == {"note": "made up"}
    data, scores = load_source(source, ())
    assert len(scores.candidates) == 0


def test_an_empty_table_cannot_be_wrapped(source):
    data, scores = load_source(source, ())
    model = build_model("deepfm", data, embedding_dim=4)
    with pytest.raises(CoverageError, match="the score table is empty"):
        wrap(model, scores, user="user_id", item="item_id")
    assert len(ScoreTable.empty().probes) == 0


def test_absent_files_come_with_the_commands_that_make_them(source, tmp_path):
    source = dataclasses.replace(source, source="from there", prepare=("make {folder}",), score=("score {folder}",))
    (source.path / "llm_scores.parquet").unlink()
    with pytest.raises(MissingDataError) as caught:
        load_source(source)
    told = str(caught.value)
    assert f"no llm_scores (.csv, .csv.gz, .parquet) in {source.path}" in told
    assert f"score {source.path}" in told
    assert "run.mode=none" in told
    assert "from there" not in told
    (source.path / "interactions.csv").unlink()
    with pytest.raises(MissingDataError, match=rf"(?s)The raw files: from there.*make {source.path}"):
        load_source(source, ())
    with pytest.raises(ConfigError, match="leaves only run.mode=none"):
        load_source(dataclasses.replace(source, scores=None))


def test_texts_are_looked_for_by_the_modes_that_read_them(source):
    source = dataclasses.replace(source, write=("write {folder} {interactions} {items}",))
    assert "texts" not in source.files()
    with pytest.raises(MissingDataError) as caught:
        source.files(("texts",))
    place = source.path
    assert f"write {place} {place}/interactions.csv {place}/items.csv.gz" in str(caught.value)
    (place / "llm_texts.csv").write_text("kind,id,text\nuser,u0,likes tests\n")
    assert source.files(("texts",))["texts"] == place / "llm_texts.csv"
    assert set(source.pinned(("texts",)).sha256) == {"interactions", "items", "texts"}
    with pytest.raises(ConfigError, match="data.texts is null"):
        dataclasses.replace(source, texts=None).files(("texts",))


def test_a_baseline_that_reads_texts_is_the_mode_of_the_run():
    plain, kar = (compose(model="deepfm", data="demo", assignments=keys) for keys in ([], ["run.mode=kar"]))
    assert (plain.mode, plain.reads) == ("gated", ("scores",))
    assert (kar.mode, kar.reads, kar.modes) == ("kar", ("texts",), ["kar"])
    assert kar.name.startswith("demo-deepfm-kar-")
    assert kar.name[-8:] != plain.name[-8:]
    assert compose(model="deepfm", data="demo", assignments=["run.mode=none"]).reads == ()
    keys = ["run.mode=curec+gated", "data.reasons=llm_reasons"]
    curec = compose(model="deepfm", data="demo", assignments=keys)
    assert curec.reads == ("texts", "reasons", "scores")
    assert compose(model="deepfm", data="demo", assignments=keys[:1]).reads == ("texts", "scores")  # texts hold them
    with_reasons = compose(model="deepfm", data="demo", assignments=["run.mode=kar", keys[1]])
    assert (with_reasons.reads, with_reasons.name) == (kar.reads, kar.name)  # which it does not read
    joint = compose(model="deepfm", data="demo", assignments=["run.mode=joint"])
    assert (joint.config.gate, joint.config.weight) == ("joint", plain.config.weight)
    with pytest.raises(ConfigError, match=r"run.mode=gate: mode='gate' is not one of 'none', 'global'"):
        compose(model="deepfm", data="demo", assignments=["run.mode=gate"])


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_the_key_of_earlier_versions_for_the_mode_is_read():
    old = compose(model="deepfm", data="demo", assignments=["config.mode=kd", "config.gate=fixed"])
    assert (old.mode, old.config.loss, old.config.gate) == ("kd", "kd", "none")
    assert "mode" not in old.to_dict()["config"]
    with pytest.raises(ConfigError, match=r"config.mode=gate: 'gate' is not one of 'none', 'global'"):
        compose(model="deepfm", data="demo", assignments=["config.mode=gate"])


def test_two_forms_of_one_file_are_not_guessed_between(source):
    with gzip.open(source.path / "interactions.csv.gz", "wt") as stream:
        stream.write((source.path / "interactions.csv").read_text())
    with pytest.raises(DataError, match=r"holds interactions.csv and interactions.csv.gz; say which"):
        load_source(source)
    assert load_source(dataclasses.replace(source, interactions="interactions.csv.gz"))[0].n_users == 4


@pytest.mark.parametrize(("content", "told"), [(b"", "is empty"), (b"user_id,item_id\n\xff,1\n", "not UTF-8")])
def test_interactions_that_cannot_be_read_are_refused_before_their_split_is_asked_for(source, content, told):
    (source.path / "interactions.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"interactions\.csv {told}|interactions\.csv is {told}"):
        load_source(dataclasses.replace(source, split="column"))


def test_what_a_source_says_of_its_files_is_checked(source):
    with pytest.raises(DataError, match="no column `split`, but data.split is 'column'"):
        load_source(dataclasses.replace(source, split="column"))
    with pytest.warns(DataSetWarning, match="4 users instead of 5, so figures"):
        load_source(dataclasses.replace(source, expected={"users": 5, "items": 9, "interactions": 16}))
    pinned = source.pinned()
    load_source(pinned)
    file = source.path / "interactions.csv"
    frame = pd.read_csv(file)
    frame.assign(split=["train", "test", "test", "valid"] * 4).to_csv(file, index=False)
    with pytest.raises(DataError, match=r"is not the file that data.sha256.interactions was taken of"):
        load_source(pinned)
    with pytest.raises(DataError, match=r"4 user\(s\) with more than one test interaction, the first is 'u0'"):
        load_source(source)
    assert len(load_source(dataclasses.replace(source, split="column"))[0].test) == 8


def test_the_environment_names_the_folder_of_all_data_sets(source, monkeypatch, tmp_path):
    bare = dataclasses.replace(source, root=None)
    monkeypatch.setenv("SLLMR_DATA", str(tmp_path))
    assert bare.path == tmp_path / "mine"
    assert bare.is_there
    assert dataclasses.replace(bare, root="elsewhere").path.parts == ("elsewhere", "mine")
    monkeypatch.delenv("SLLMR_DATA")
    assert bare.path.parts == ("data", "mine")


def test_the_demo_is_the_bundled_data():
    source = compose(model="nfm", data="demo").data
    assert source.path == demo_paths().interactions.parent
    data, scores = load_source(source)  # a wrong count in the file would be a warning, which fails a test
    assert int((data.history_length[1:] < 3).sum()) == 800
    assert "simulated" in scores.origin["note"]
