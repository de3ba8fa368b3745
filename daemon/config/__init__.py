"""What the owner decides: TOML, environment and credentials, read once into frozen sections.

Rule: the environment of the process is read in this folder and nowhere else, and a configuration
with mistakes never leaves it: all mistakes are reported at once.
"""

from daemon.config.loader import SEARCHED, Loaded, environment, find, load, show
from daemon.config.mistakes import ConfigError, Mistake

__all__ = ["SEARCHED", "ConfigError", "Loaded", "Mistake", "environment", "find", "load", "show"]
