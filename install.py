"""Asked by the WebUI before it starts: installs what is missing, and nothing that is there, whatever its version.

A WebUI has all that this extension needs. torch and what the WebUI pins are never touched: where one of those is
missing, the WebUI itself cannot start.
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
