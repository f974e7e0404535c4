"""How large a LoRA is."""

from lib_blocktrain.networks.adapters import LoRA
from lib_blocktrain.networks.adapters.base import matrix
from lib_blocktrain.networks.files import Network


def parameters_of(network: Network) -> int:
    """Return how many numbers a LoRA has."""
    return sum(module.down.numel() + module.up.numel() for module in loras(network))


def norm_of(network: Network) -> float:
    """Return the Frobenius norm of all delta weights together, without making them: sum((up^T up) * (down down^T))."""
    squares = 0.0
    for module in loras(network):
        up, down = matrix(module.up).double(), matrix(module.down).double()
        squares += module.scale**2 * float(((up.T @ up) * (down @ down.T)).sum())
    return squares**0.5


def loras(network: Network) -> list[LoRA]:
    return [module for module in network.modules.values() if isinstance(module, LoRA)]
