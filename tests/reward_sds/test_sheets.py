"""Candidate sheets: rows for `save_image_grid`, best first, once."""

import torch

from tests.helpers.doubles import Prompts, camera_batch, extension, guidance, render

sheets = extension("sheets")


def make():
    images = torch.linspace(0, 1, 6).view(3, 2, 1, 1, 1).expand(3, 2, 3, 16, 16).contiguous()
    rewards = torch.tensor([[0.1], [0.9], [0.5]])
    weights = torch.tensor([[-0.1], [0.9], [0.0]])
    return sheets.CandidateSheet(images, rewards, weights, torch.tensor([500]))


def test_one_row_per_candidate_best_first():
    rows = make().rows()
    assert [len(row) for row in rows] == [3, 3, 3]  # label and two views
    firsts = [round(row[1]["img"].mean().item(), 3) for row in rows]
    assert firsts == [0.4, 0.8, 0.0]  # candidates 1, 2, 0


def test_cells_are_what_save_image_grid_reads():
    for row in make().rows():
        for cell in row:
            assert cell["type"] == "rgb" and cell["kwargs"]["data_format"] == "HWC"
            assert cell["img"].shape == (128, 128, 3)
            assert 0 <= cell["img"].min() and cell["img"].max() <= 1


def test_the_label_shows_how_a_candidate_was_used():
    """Green is followed, red avoided, grey unused; corners show the colour."""
    best, unused, worst = (row[0]["img"][-1, -1] for row in make().rows())
    assert best[1] > best[0] and worst[0] > worst[1] and unused[0] == unused[1]


def test_large_previews_keep_their_size():
    assert sheets.enlarge(torch.zeros(1, 1, 3, 512, 512)).shape[-1] == 512


def test_a_sheet_is_made_every_so_many_steps_and_popped_once():
    built = guidance(sheet_every=5, n_view=2)
    made = []
    for at in range(11):
        built.do_update_step(0, at)
        built(render(4), Prompts(), **camera_batch(4))
        rows = built.pop_sheet()
        if rows is not None:
            made.append(at)
            assert len(rows) == 2 * 4 and len(rows[0]) == 3
        assert built.pop_sheet() is None
    assert made == [0, 5, 10]


def test_no_sheet_without_a_reward():
    built = guidance(sheet_every=1, reward_strategy="mean")
    built(render(4), Prompts(), **camera_batch(4))
    assert built.pop_sheet() is None
