"""Pictures that a run starts from, as our runtime reads them."""

try:
    from threestudio.utils.pictures import picture_faults, picture_paths, read_pictures
except ImportError:  # an upstream checkout has no 2D part
    from typing import Any, List

    from .errors import UserError

    def picture_paths(value: Any) -> List[str]:
        """Return the files of a setting that is one path or a list."""
        return [value] if isinstance(value, str) else list(value)

    def picture_faults(key: str, value: Any, count: int) -> List[str]:
        """Say that this needs our runtime."""
        return [
            f"`{key}` needs the 2D part of the runtime that threestudio-reward-sds comes with; an "
            "upstream checkout has none."
        ]

    def read_pictures(key: str, value: Any, count: int, size: int) -> Any:
        """Say that this needs our runtime."""
        raise UserError(picture_faults(key, value, count)[0])


__all__ = ["picture_faults", "picture_paths", "read_pictures"]
