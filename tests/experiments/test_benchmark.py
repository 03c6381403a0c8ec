"""The benchmark's table, by hand."""

from benchmark import table


def test_ratios_are_against_sds_of_the_same_run():
    """0.6 s over 0.2 s is x3.00, 64 images over 8 is x8."""
    found = {
        ("sds", 1, 0): {"seconds": 0.2, "images": 8, "megabytes": 100},
        ("batched", 4, 1): {"seconds": 0.6, "images": 32, "megabytes": 150},
        ("loop", 4, 1): {"seconds": 1.0, "images": 64, "megabytes": 120},
    }
    text = table(found, [4], [1])
    assert "SDS: 0.200 s a step, 8 network images, 100 MB." in text
    assert "| 4 | 1 | x3.00 | x4 | 150 | x5.00 | x8 | 120 |" in text
