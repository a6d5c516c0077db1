"""The version of this gateway, as the distribution's metadata has it."""

from importlib.metadata import version
from typing import Final

VERSION: Final = version("openclawmu")
