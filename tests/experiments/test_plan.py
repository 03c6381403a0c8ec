"""From an experiment YAML to its runs."""

import pytest

from plan import load_experiment, pending_batches
from report import RELATIONS
from run import block_captions
from tests.experiments.samples import ROW

YAML = """
name: tiny
captions: {split: dev, per_relation: 1}
seeds: [0, 1]
overrides: ["trainer.max_steps=2"]
methods:
  sds: {config: base.yaml}
  random: {config: base.yaml, overrides: ["a.b=c"], seeds: [0]}
assets: [weights]
table: results/tiny.csv
"""


def captions_of(split, per_relation):
    assert (split, per_relation) == ("dev", 1)
    return ["a red cube under a blue cone", "a green torus"]


@pytest.fixture
def load(tmp_path):
    (tmp_path / "base.yaml").write_text("x: 1\n")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"one")

    def load(text=YAML):
        (tmp_path / "tiny.yaml").write_text(text)
        return load_experiment(tmp_path / "tiny.yaml", load.captions_of, root=tmp_path)

    load.root, load.captions_of = tmp_path, captions_of
    return load


def test_runs_of_a_caption_stand_together_and_seeds_of_a_method_are_kept(load):
    experiment = load()
    assert [(t.method, t.caption[:5], t.seed) for t in experiment.trials] == [
        ("sds", "a red", 0),
        ("random", "a red", 0),
        ("sds", "a gre", 0),
        ("random", "a gre", 0),
        ("sds", "a red", 1),
        ("sds", "a gre", 1),
    ]
    assert experiment.trials[1].overrides == ("trainer.max_steps=2", "a.b=c")
    assert experiment.methods == ["sds", "random"]


def test_a_method_may_have_more_seeds_than_the_others(load):
    trials = load(YAML.replace("seeds: [0]}", "seeds: [1, 5]}")).trials
    assert {(t.method, t.seed) for t in trials} == {
        *(("sds", 0), ("sds", 1)),
        *(("random", 1), ("random", 5)),
    }


@pytest.mark.parametrize(
    "seeds, message",
    [("[]", "asks for no run of random: "), ("3", r"methods\.random\.seeds is 3, but must be a")],
)
def test_a_method_without_seeds_is_named(load, seeds, message):
    with pytest.raises(ValueError, match=message):
        load(YAML.replace("seeds: [0]}", f"seeds: {seeds}}}"))
    with pytest.raises(ValueError, match="^seeds is 3, but must be a list"):
        load(YAML.replace("seeds: [0, 1]", "seeds: 3"))


def test_a_file_that_is_not_yaml_is_named(load):
    with pytest.raises(ValueError, match=r"tiny\.yaml cannot be read"):
        load(YAML + "\n}")


def test_captions_may_be_listed(load):
    text = YAML.replace("{split: dev, per_relation: 1}", '["a cone"]')
    assert {t.caption for t in load(text).trials} == {"a cone"}


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "base.yaml").write_text("x: 2\n"),
        lambda root: (root / "weights" / "model.safetensors").write_bytes(b"two"),
    ],
)
def test_config_and_weights_are_in_the_digest(load, change):
    before = load().trials[0].config_id
    assert load().trials[0].config_id == before
    change(load.root)
    assert load().trials[0].config_id != before


def test_overrides_are_in_the_digest(load):
    sds, random = load().trials[:2]
    assert sds.config_id != random.config_id


def test_wrong_keys_are_named(load):
    with pytest.raises(ValueError, match=r"missing keys \['seeds'\], unknown keys \['sedes'\]"):
        load(YAML.replace("seeds: [0, 1]", "sedes: [0, 1]"))


def test_keys_of_a_method_are_checked(load):
    with pytest.raises(ValueError, match=r"methods.sds has the keys \['config', 'sedes'\]"):
        load(YAML.replace("sds: {config: base.yaml}", "sds: {config: base.yaml, sedes: [0]}"))
    with pytest.raises(ValueError, match="methods.sds has the keys .*It needs `config`"):
        load(YAML.replace("sds: {config: base.yaml}", "sds: {seeds: [0]}"))


FEWER = YAML.replace("per_relation: 1", "per_relation: 3").replace(
    "seeds: [0]}", "seeds: [0], per_relation: 2}"
)


def test_a_method_may_have_fewer_captions_of_each_relation(load):
    load.captions_of = block_captions
    trials = load(FEWER).trials
    captions = {m: [t.caption for t in trials if t.method == m] for m in ("sds", "random")}
    assert captions["sds"] == block_captions("dev", 3) * 2
    assert captions["random"] == block_captions("dev", 2)
    for relation in RELATIONS:
        assert sum(f" {relation} " in caption for caption in captions["random"]) == 2


@pytest.mark.parametrize("limit", [0, 4, 1.5, "all"])
def test_a_wrong_number_of_captions_is_refused(load, limit):
    load.captions_of = block_captions
    with pytest.raises(ValueError, match=f"methods.random.per_relation is {limit}; .* from 1 to 3"):
        load(FEWER.replace("per_relation: 2", f"per_relation: {limit}"))


def test_listed_captions_have_no_number_for_each_relation(load):
    with pytest.raises(
        ValueError, match="methods.random.per_relation is 2, but `captions` is a li"
    ):
        load(FEWER.replace("{split: dev, per_relation: 3}", '["a cone"]'))


def _row(trial, **changes):
    fields = {"method": trial.method, "caption": trial.caption, "seed": trial.seed}
    return type(ROW)(**{**vars(ROW), **fields, "config": trial.config_id, **changes})


def test_finished_runs_are_left_out(load):
    experiment = load()
    trials = experiment.trials
    assert pending_batches(experiment, [_row(trials[1]), _row(trials[3])]) == [
        (trials[0],),
        (trials[2],),
        *((trial,) for trial in trials[4:]),
    ]


def test_rows_of_another_config_are_refused(load):
    experiment = load()
    with pytest.raises(ValueError, match="--fresh"):
        pending_batches(experiment, [_row(experiment.trials[0], config="base.yaml@00000000")])


@pytest.mark.parametrize("change", [("[0, 1]", "[]"), ("{split: dev, per_relation: 1}", "[]")])
def test_no_run_at_all_is_refused(load, change):
    with pytest.raises(ValueError, match="asks for no run"):
        load(YAML.replace(*change))


PICTURES = YAML.replace("seeds: [0, 1]", "seeds: [0, 1]\nbatch: 2").replace(
    "{split: dev, per_relation: 1}", "[a cone, a cube, a torus]"
)


def test_pictures_of_a_method_and_seed_are_made_together(load):
    batches = load(PICTURES).batches
    made = [(b[0].method, b[0].seed, *(t.caption[2:] for t in b)) for b in batches]
    assert made == [
        ("sds", 0, "cone", "cube"),
        ("random", 0, "cone", "cube"),
        ("sds", 0, "torus"),
        ("random", 0, "torus"),
        ("sds", 1, "cone", "cube"),
        ("sds", 1, "torus"),
    ]


def test_a_batch_that_lacks_a_row_is_made_again(load):
    experiment = load(PICTURES)
    rows = [_row(t) for b in experiment.batches[1:] for t in b]
    assert pending_batches(experiment, rows) == experiment.batches[:1]
    assert pending_batches(experiment, [*rows, _row(experiment.batches[0][1])]) == [
        experiment.batches[0]
    ]


@pytest.mark.parametrize("change", [("batch: 2", "batch: 3"), ("a torus]", "a sphere]")])
def test_who_is_in_a_batch_is_in_the_digest(load, change):
    before = load(PICTURES).trials[0].config_id
    assert load(PICTURES.replace(*change)).trials[0].config_id != before


def test_a_method_more_leaves_the_digests_of_the_others(load):
    before = {t.key: t.config_id for t in load(PICTURES).trials}
    more = PICTURES.replace("assets:", "  more: {config: base.yaml, captions: [a ball]}\nassets:")
    after = {t.key: t.config_id for t in load(more).trials}
    assert before.items() < after.items()
    assert ("more", "a ball", 1) in after


@pytest.mark.parametrize("batch", ["0", "few"])
def test_a_batch_is_a_number_of_pictures(load, batch):
    with pytest.raises(ValueError, match="must be 1 or more pictures"):
        load(PICTURES.replace("batch: 2", f"batch: {batch}"))


def test_a_group_of_unknown_methods_is_refused_before_anything_runs(load):
    groups = "groups: [{title: N, kind: curve, baseline: sds, methods: {sds: a, vsd: b}}]\n"
    with pytest.raises(ValueError, match="'vsd'"):
        load(PICTURES + groups)


def test_batches_of_methods_that_train_their_guidance_are_numbered(load):
    """VSD trains its adapter, which the pictures of a batch share."""
    (load.root / "vsd.yaml").write_text("system: {optimizer: {params: {guidance: {lr: 0.1}}}}\n")
    text = PICTURES.replace("random: {config: base.yaml", "random: {config: vsd.yaml")
    numbers = load(text).shared_batches()
    assert {key[0] for key in numbers} == {"random"}
    assert numbers["random", "a cone", 0] == numbers["random", "a cube", 0]
    assert numbers["random", "a cone", 0] != numbers["random", "a torus", 0]
    assert load(text.replace("batch: 2\n", "\n")).shared_batches() == {}


@pytest.mark.parametrize(
    "captions",
    [
        "{split: dev}",
        "{split: dev, per_relation: 1, colour: red}",
        "{split: dev, per_relation: 1, edits: 1}",
        "dev",
    ],
)
def test_captions_are_a_list_or_a_share_of_a_split(load, captions):
    wrong = YAML.replace("{split: dev, per_relation: 1}", captions)
    with pytest.raises(ValueError, match="yaml: captions is .* must be a list of captions, or"):
        load(wrong)
    wrong = YAML.replace("seeds: [0]}", f"captions: {captions}}}")
    with pytest.raises(ValueError, match="yaml: methods.random.captions is .* must be a list of"):
        load(wrong)


@pytest.mark.parametrize(
    "captions, message",
    [
        (
            "{split: test, per_relation: 1}",
            "`split` of captions is test; it must be one of dev, held-out",
        ),
        ("{split: test, edits: 1}", "`split` of captions is test; it must be one of dev, held-out"),
        ("{split: dev, per_relation: 41}", "`per_relation` of captions is 41; .* from 1 to 40"),
        ("{split: dev, per_relation: -1}", "`per_relation` of captions is -1; .* from 1 to 40"),
        ("{split: held-out, edits: 500}", "`edits` of captions is 500; .* from 1 to 320"),
        ("{split: dev, edits: 0}", "`edits` of captions is 0; .* from 1 to 160"),
        ("{split: dev, edits: 2.5}", "`edits` of captions is 2.5; .* from 1 to 160"),
    ],
)
def test_captions_that_a_split_does_not_have_are_refused(load, captions, message):
    load.captions_of = block_captions
    with pytest.raises(ValueError, match=message):
        load(YAML.replace("{split: dev, per_relation: 1}", captions))


def test_keys_of_the_evaluation_are_checked(load):
    with pytest.raises(ValueError, match=r"evaluation has the unknown keys \['juge'\]. Allowed"):
        load(YAML + "evaluation: {juge: load/blocks/judge-front}\n")
