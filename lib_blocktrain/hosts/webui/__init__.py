"""What AUTOMATIC1111's WebUI and its forks have in common; `hosts.a1111` and `hosts.forge` have what differs."""
