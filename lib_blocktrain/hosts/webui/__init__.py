"""The code common to AUTOMATIC1111's WebUI and its forks; `hosts.a1111` and `hosts.forge` have the rest."""
