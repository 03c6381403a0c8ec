"""Write the README's reference tables from the code: every registered name, every setting.

python tests/docs/reference_tables.py rewrites the part of README.md between its two markers;
`test_readme.py` fails when that part is out of date.
"""

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BEGIN = "<!-- reference: written by tests/docs/reference_tables.py -->"
END = "<!-- end of reference -->"

ROLES = {
    "Systems": "systems",
    "Data modules": "data",
    "Images": "images",
    "Geometry": "geometry",
    "Materials": "materials",
    "Backgrounds": "background",
    "Renderers": "renderers",
    "Prompt processors": "prompt_processors",
    "Exporters": "exporters",
    "Guidance": "guidance|presets",
    "Priors": "priors",
    "Objectives": "objectives",
    "Rewards": "rewards",
    "Strategies": "strategies",
}
"""Heading -> names of the modules or folders (either side of "|") that the role lives in."""


def components() -> dict[str, type]:
    """List everything that is registered once the extensions are loaded."""
    sys.path.insert(0, str(ROOT))
    import threestudio
    from threestudio.extensions import load_extensions

    load_extensions()
    inside = (ROOT / "threestudio", ROOT / "custom")
    return {
        name: cls
        for name, cls in sorted(threestudio.__modules__.items())
        if Path(inspect.getfile(cls)).resolve().is_relative_to(inside[0])
        or Path(inspect.getfile(cls)).resolve().is_relative_to(inside[1])
    }


def settings(cls: type) -> list[tuple[str, str, str]]:
    """List (key, default, meaning) of a component's Config."""
    config = getattr(cls, "Config", None)
    if config is None or not dataclasses.is_dataclass(config):
        return []
    fields = dataclasses.fields(config)
    meanings = _children({field.name for field in fields}) | _field_docstrings(config)
    return [(field.name, _default(field), meanings.get(field.name, "")) for field in fields]


def other_defaults(cls: type) -> dict[str, str]:
    """Return the keys whose default a component's `preset` changes, and that default."""
    preset = getattr(cls, "preset", {})
    own = {key: default for key, default, _ in settings(cls)}
    changed = {key: _yaml(value) for key, value in preset.items()}
    return {key: default for key, default in changed.items() if own.get(key) != default}


def render(registered: dict[str, type]) -> str:
    """Write the tables as markdown."""
    parts = []
    for heading, names in _by_role(registered).items():
        parts.append(f"### {heading}\n\n| name | what |\n|---|---|")
        parts[-1] += "".join(f"\n| `{n}` | {_summary(registered[n])} |" for n in names)
        for title, rows in _grouped_settings(registered, names):
            parts.append(f"{title}\n\n| key | default | meaning |\n|---|---|---|")
            parts[-1] += "".join(f"\n| `{k}` | `{d}` | {_cell(m)} |" for k, d, m in rows)
        presets = {name: other_defaults(registered[name]) for name in names}
        if any(presets.values()):
            parts.append("Other defaults of some of them:\n\n| name | defaults |\n|---|---|")
            parts[-1] += "".join(f"\n| `{n}` | {_listed(p)} |" for n, p in presets.items() if p)
    return "\n\n".join(parts)


def current_block() -> str:
    """Return what the README has between the markers now."""
    text = README.read_text(encoding="utf-8")
    return text.split(BEGIN, 1)[1].split(END, 1)[0].strip()


def write_block(block: str) -> None:
    """Put new tables between the markers."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    README.write_text(f"{before}{BEGIN}\n\n{block}\n\n{END}{after}", encoding="utf-8")


def _by_role(registered: dict[str, type]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, cls in registered.items():
        words = set(cls.__module__.split("."))
        role = next(
            (title for title, modules in ROLES.items() if words & set(modules.split("|"))),
            "Others",
        )
        found.setdefault(role, []).append(name)
    return {role: found[role] for role in (*ROLES, "Others") if role in found}


def _grouped_settings(
    registered: dict[str, type], names: list[str]
) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield (title, rows): first what all components of a role share, then the rest of each."""
    groups: dict[tuple, list[str]] = {}
    for name in names:
        rows = tuple(settings(registered[name]))
        if rows:
            groups.setdefault(rows, []).append(name)
    shared = set.intersection(*map(set, groups)) if len(groups) > 1 else set()
    if shared:
        yield (
            "Common to all of them that have settings:",
            [r for r in next(iter(groups)) if r in shared],
        )
    for rows, members in groups.items():
        own = [row for row in rows if row not in shared]
        if own:
            yield ", ".join(f"`{name}`" for name in members) + ":", own


def _listed(defaults: dict[str, str]) -> str:
    return ", ".join(f"`{key}: {default}`" for key, default in defaults.items())


def _children(keys: set[str]) -> dict[str, str]:
    """Say what `<child>_type` and `<child>` are; a field's own docstring wins."""
    children = {key.removesuffix("_type") for key in keys if key.endswith("_type")} & keys
    names = {
        f"{child}_type": f"Registered name of the {child.replace('_', ' ')}." for child in children
    }
    return names | {child: f"Settings of the {child.replace('_', ' ')}." for child in children}


def _summary(cls: type) -> str:
    return _cell(inspect.getdoc(cls) or "")


def _cell(text: str) -> str:
    """Take the first paragraph as one line that is safe inside a table."""
    return " ".join(text.strip().split("\n\n")[0].split()).replace("|", "\\|")


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return _yaml(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _yaml(field.default_factory())
    return "required"


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return str(value)


@cache
def _field_docstrings(config: type) -> dict[str, str]:
    """Collect the string that stands under each field, base classes first."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
        for node, after in zip(body, body[1:], strict=False):
            is_field = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if is_field and is_text and isinstance(after.value.value, str):
                found[node.target.id] = after.value.value
    return found


if __name__ == "__main__":
    write_block(render(components()))
