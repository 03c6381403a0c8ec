"""The flat guidance block: keys find their component, and all faults are told at once."""

import itertools

import pytest
from omegaconf import OmegaConf

import threestudio
from tests.helpers.doubles import extension, guidance

settings = extension("settings")

WAVY = {"prior_type": "wavy-prior", "reward_model_type": "brightness"}


def faults(**block):
    return threestudio.find("reward-sds-guidance").config_faults({**WAVY, **block})


def test_flat_keys_reach_their_component():
    built = guidance(n_view=2, guidance_scale=7.5, recon_loss=True, grad_clip=1.0)
    assert built.prior.cfg.n_view == 2
    assert built.objective.cfg.guidance_scale == 7.5 and built.objective.cfg.recon_loss
    assert built.cfg.grad_clip == 1.0


def test_a_block_of_omegaconf_with_schedules_is_accepted():
    block = OmegaConf.create(
        {**WAVY, "max_step_percent": [0, 0.98, 0.5, 8000], "guidance_scale": 50}
    )
    built = threestudio.find("reward-sds-guidance")(block)
    assert built.objective.cfg.guidance_scale == 50.0 and built.max_step == 980


def test_no_key_exists_twice_among_guidance_priors_and_objectives():
    own = settings.field_names(extension("guidance").CandidateGuidance.Config)
    objective = settings.field_names(threestudio.find("sds-objective").Config) - {"weights"}
    for name in ("stable-diffusion-prior", "mvdream-prior"):
        prior = settings.field_names(threestudio.find(name).Config)
        for first, second in itertools.combinations((own, objective, prior), 2):
            assert not first & second


def test_defaults_belong_to_the_prior_so_that_a_swap_keeps_them():
    """Stable Diffusion's baseline has scale 100 without, MVDream's 50 with reconstruction."""
    config = extension("guidance").CandidateGuidance.Config
    for prior, scale, recon in (
        ("stable-diffusion-prior", 100.0, False),
        ("mvdream-prior", 50.0, True),
    ):
        nested, found = settings.nest(config, {"prior_type": prior}, {})
        assert not found
        assert nested["objective"] == {"guidance_scale": scale, "recon_loss": recon}


def test_the_official_flat_form():
    translated = settings.translate_official(
        {"reward_strategy": "weighted", "reward_model": "image-reward", "num_of_training_steps": 9}
    )
    assert translated == {
        "reward_strategy_type": "softmax",
        "reward_model_type": "image-reward",
        "trainer_max_steps": 9,
    }
    built = guidance(reward_strategy="best", reward_model="brightness", num_of_training_steps=10)
    assert type(built.strategy).__name__ == "BestStrategy"
    assert built.cfg.trainer_max_steps == 10


def test_a_name_on_the_command_line_wins_over_the_type_of_the_yaml():
    built = guidance(reward_strategy_type="min-max", reward_strategy="mean")
    assert type(built.strategy).__name__ == "MeanStrategy"


def test_the_reward_is_not_built_when_nobody_reads_it():
    for block in ({"reward_strategy": "none"}, {"n_noises": 1}, {"reward_strategy": "random"}):
        assert faults(**block, reward_model_type="no-such-reward") == []
        assert guidance(**block, reward_model_type="no-such-reward").reward is None


@pytest.mark.parametrize(
    "block, parts",
    [
        ({"n_noise": 3}, ["`system.guidance.n_noise` is not a key", "'n_noises'"]),
        ({"n_viwe": 3}, ["'n_view'"]),
        ({"n_noises": "four"}, ["`system.guidance.n_noises` is 'four' (str)", "int", "default 7"]),
        (
            {"guidance_scale": [1, 2]},
            ["`system.guidance.guidance_scale` is [1, 2] (list)", "float"],
        ),
        ({"prior_type": "wavy-piror"}, ["`system.guidance.prior_type`", "'wavy-prior'"]),
        ({"objective_type": "sd-objective"}, ["'sds-objective'"]),
        ({"reward_strategy_type": "min-mex"}, ["'min-max'"]),
        ({"reward_model_type": "klip"}, ["'clip'"]),
        ({"reward_strategy": {"num_bets": 1}}, ["reward_strategy.num_bets", "'num_best'"]),
        ({"reward_strategy": {"lambda_best": 2}}, ["`lambda_best` is 2.0"]),
        ({"n_noises": 0}, ["`system.guidance.n_noises` is 0, but must be 1 or more"]),
        ({"chunk_size": 0}, ["`system.guidance.chunk_size` is 0"]),
        ({"preview_steps": -1}, ["`system.guidance.preview_steps` is -1"]),
        ({"preview_spacing": "log"}, ["must be one of uniform, official"]),
        ({"reward_duration": 0.5}, ["trainer_max_steps: ${trainer.max_steps}"]),
        ({"sqrt_anneal": True}, ["`sqrt_anneal` needs", "trainer_max_steps"]),
        ({"max_step_percent": [1, 2]}, ["`system.guidance.max_step_percent`", "no schedule"]),
        ({"min_step_percent": "low"}, ["`system.guidance.min_step_percent`", "no schedule"]),
        ({"min_step_percent": 2}, ["`system.guidance.min_step_percent` is 2", "[0, 1]"]),
        ({"grad_clip": "big"}, ["`system.guidance.grad_clip`"]),
    ],
)
def test_each_fault_is_explained(block, parts):
    (fault,) = faults(**block)
    assert all(part in fault for part in parts), fault


def test_settings_of_another_reward_or_strategy_say_whose_they_are():
    """Upstream's merge keeps them when the command line changes the type."""
    (fault,) = faults(reward_strategy_type="softmax", reward_strategy={"num_worst": 1})
    assert fault == (
        "`system.guidance.reward_strategy.num_worst` is not a key of this block. There are: "
        "temperature. It is a key of 'min-max' and 'random': delete it if it is left over from "
        "there."
    )


def test_too_few_candidates_for_a_strategy():
    (fault,) = faults(n_noises=3)
    assert fault == (
        "`n_noises` is 3 but strategy 'min-max' uses 4 candidates (num_best=2 + num_worst=2). Set "
        "`system.guidance.n_noises` to 4 or more, or lower the counts, e.g. `reward_strategy: "
        "{num_best: 1, num_worst: 1}`."
    )
    assert faults(n_noises=3, reward_strategy={"num_worst": 1}) == []
    assert len(faults(n_noises=3, reward_strategy="random")) == 1
    assert (
        len(faults(n_noises=2, reward_strategy_type="best", reward_strategy={"num_best": 3})) == 1
    )


def test_all_faults_are_told_at_once_before_anything_is_built():
    block = {"n_noise": 3, "preview_steps": -1, "reward_strategy": {"num_best": 0}, "n_view": "x"}
    assert len(faults(**block)) == 4
    with pytest.raises(ValueError) as error:
        guidance(**{**block, "preview_steps": -1})
    assert all(
        text in str(error.value) for text in ("n_noise", "preview_steps", "num_best", "n_view")
    )


def test_a_misspelt_strategy_does_not_hide_a_misspelt_reward():
    told = faults(reward_strategy_type="minmax", reward_model_type="image_reward")
    assert len(told) == 2
    assert "'min-max'" in told[0] and "'image-reward'" in told[1]


def test_refuse_raises_all_faults_of_a_component_at_once():
    refuse = extension("errors").refuse
    refuse([])
    with pytest.raises(ValueError, match="^`a` is wrong. `b` is wrong.$"):
        refuse(["`a` is wrong.", "`b` is wrong."])
