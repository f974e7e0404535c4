"""What AUTOMATIC1111's WebUI and its forks have in common.

``host``: folders, queue, progress, sampler; ``folders``: where things lie; ``steps``: the steps of a picture; ``runs``:
network files of runs, found by name; ``prompt``: the LoRAs of a picture that is being made, with their block weights;
``axes``: for the X/Y/Z plot.
"""
