"""What the report of a picture experiment compares: groups of methods with one baseline."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rows import Row

KINDS = ("family", "ablation", "curve")


@dataclass(frozen=True)
class Group:
    """Methods of one table of the report; a method may be in several."""

    title: str
    kind: str
    """ "family": with pictures and a verdict; "ablation"; "curve": an ablation that is drawn."""
    baseline: str
    reward: str | None
    """Method of a family that shall beat the baseline."""
    methods: dict[str, str]
    """Method -> what the report calls it."""
    note: str = ""
    """Text for the report, e.g. why a result is what it is."""

    @property
    def opponents(self) -> list[str]:
        """Whom the reward version of a family shall beat: the baseline, then the controls."""
        others = [m for m in self.methods if m not in (self.baseline, self.reward)]
        return [self.baseline, *others]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Differences to test: methods minus the baseline, the reward version minus controls."""
        pairs = [(method, self.baseline) for method in self.methods if method != self.baseline]
        controls = self.opponents[1:] if self.reward else []
        return pairs + [(self.reward, control) for control in controls]


def load_groups(specs: Iterable[dict[str, Any]], known: Iterable[str]) -> list[Group]:
    """Read the groups of an experiment YAML.

    Args:
        specs: `{title, kind, baseline, reward (family only), methods, note (optional)}` of each.
        known: Methods of the experiment.

    Raises:
        ValueError: For a group that is not of this form, or names methods that do not exist.
    """
    known = list(known)
    return [_group(spec, known) for spec in specs]


def _group(spec: dict[str, Any], known: list[str]) -> Group:
    try:
        group = Group(**{"reward": None, **spec})
    except TypeError as error:
        raise ValueError(
            f"The group {spec} needs title, kind, baseline and methods, a family also reward; it "
            f"may have a note and nothing else ({error})."
        ) from error
    if group.kind not in KINDS or (group.kind == "family") != (group.reward is not None):
        raise ValueError(
            f"The group '{group.title}' has the kind '{group.kind}', which must be one of "
            f"{', '.join(KINDS)}; `reward` names the reward version of a family, and only of one."
        )
    for method in (*group.methods, group.baseline, *filter(None, [group.reward])):
        if method not in known or method not in group.methods:
            raise ValueError(
                f"The group '{group.title}' names the method '{method}', which must be one of its "
                f"own `methods` and of the experiment's: {', '.join(known)}."
            )
    return group


def rows_of(group: Group, rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Sort the rows by the group's methods; methods without a row are left out."""
    found: dict[str, list[Row]] = {method: [] for method in group.methods}
    for row in rows:
        if row.method in found:
            found[row.method].append(row)
    return {method: some for method, some in found.items() if some}


def comparable(group: Group, by_method: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Keep the runs whose rates can stand side by side: in an ablation those that all methods have.

    Methods of a family have the same runs. Without a run in common nothing is left.
    """
    if group.kind == "family" or not by_method:
        return by_method
    runs = [{(row.caption, row.seed) for row in rows} for rows in by_method.values()]
    shared = set.intersection(*runs)
    found = {
        method: [row for row in rows if (row.caption, row.seed) in shared]
        for method, rows in by_method.items()
    }
    return found if shared else {}
