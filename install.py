"""Run by the WebUI before it starts: installs missing packages, and never replaces an installed version.

A WebUI has all packages that this extension needs. Those that the WebUI pins, such as torch, are never installed here:
without them the WebUI itself does not start.
"""

import importlib.util

NEEDED = ("safetensors", "numpy")  # beside torch and Pillow: import name = package name


def main() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        import launch

        for name in missing:
            launch.run_pip(f"install {name}", f"{name} for blocktrain")


main()
