"""The two base classes, where extensions look for them."""

from threestudio.systems.base_system import BaseSystem
from threestudio.systems.lift3d import BaseLift3DSystem

__all__ = ["BaseLift3DSystem", "BaseSystem"]
