"""Mobile-VLA: train, evaluate and compare vision-language-action policies for mobile robots."""

import sys
from pathlib import Path

# Hydra finds plug-ins in the namespace `hydra_plugins`, wherever on the path it lies; ours need no installation.
_PLUGINS = str(Path(__file__).parent / "plugins")
if _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)
