"""A GPU that is not there: tensors that say `cuda:0`, whose shapes and dtypes torch's "meta" kernels work out.

A training step, an analysis or a preview then runs in a second on a CPU. An operation raises where its tensors are on
different devices, or where CUDA's kernel refuses operands of different float dtypes (matmuls, convolutions, norms).
What is on the CPU is real. Recorded by source line are

- waits: what makes the CPU wait for the GPU, as `item`, `float()`, `bool()`, `.cpu()`, `nonzero`;
- copies: to the GPU from memory that is not pinned, so that the CPU waits for the copy.

What the CPU reads is made up: 0.5 for one float, 0 for an integer, True for a bool, random numbers for a tensor.

The process must have `guard.cpp` preloaded: see `preloaded`. `install` changes torch for the rest of the process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent.parent
GIB = 2**30
EFFICIENT_ATTENTION = 2  # of torch.nn.attention.SDPBackend
MATMULS = {"mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_efficient_attention"}
SAME_DTYPE = MATMULS | {"convolution", "convolution_backward", "native_layer_norm", "native_group_norm"}
ACROSS_DEVICES = {"copy_", "_foreach_copy_", "index", "index_put_", "index_put", "_index_put_impl_"}


class MixedDtypesError(RuntimeError):
    """Operands of different float dtypes, which CUDA's kernel of this operation refuses."""


class DevicesError(RuntimeError):
    """Tensors on different devices in one operation."""


def build_guard(folder: Path) -> Path:
    """Compile `guard.cpp` against this torch; raise RuntimeError with the reason where that is not possible."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        raise RuntimeError("the pretended GPU needs g++ on Linux (Debian: apt-get install g++)")
    if torch.version.cuda is not None:
        raise RuntimeError("the pretended GPU needs a torch without CUDA: the real one has hooks of its own")
    torch_folder, library = Path(torch.__file__).parent, folder / "libguard.so"
    include = torch_folder / "include"
    options = ["-w", "-std=c++17", "-shared", "-fPIC", f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
    linked = [f"-L{torch_folder / 'lib'}", "-Wl,--no-as-needed", "-lc10", "-ltorch_cpu"]
    command = [compiler, *options, str(Path(__file__).with_name("guard.cpp")), *linked, "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the pretended GPU cannot be built with torch {torch.__version__}: {done.stderr[:400]}")
    return library


def preloaded(guard: Path) -> dict[str, str]:
    """Return the environment of a process with the guard."""
    libraries = str(Path(torch.__file__).parent / "lib")
    return {**os.environ, "LD_PRELOAD": str(guard), "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"}


class GpuTensor(Tensor):
    """A tensor on the pretended GPU; `geometry` is its shape, strides and dtype."""

    geometry: tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> GpuTensor:
        made = Tensor._make_wrapper_subclass(cls, shape, strides=stride, dtype=dtype, device="cuda:0")  # type: ignore[attr-defined]
        made.geometry = shape, stride, dtype
        return made

    @classmethod
    def like(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> GpuTensor:
        """Return a tensor of the same shape, with the strides that a copy of it has."""
        shape, dtype = tuple(tensor.shape), dtype or tensor.dtype
        return cls(shape, torch.empty_like(tensor, device="meta").stride(), dtype)

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"GpuTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside the pretended GPU's context")


class PretendedGpu(TorchDispatchMode):
    """The GPU inside the context. `waits` and `copies` have what was recorded, by "file:line function what"."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self._generator = torch.Generator().manual_seed(0)
        self._results: dict[Any, _Result] = {}

    def reset(self) -> None:
        self.waits.clear()
        self.copies.clear()

    def move(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Put a model's weights on the GPU, in place, in this dtype."""
        for part in module.modules():
            for group in (part._parameters, part._buffers):
                for name, tensor in group.items():
                    if tensor is not None:
                        found = dtype if tensor.dtype.is_floating_point else tensor.dtype
                        moved = GpuTensor.like(torch.empty(tensor.shape, device="meta"), found)
                        group[name] = nn.Parameter(moved, False) if group is part._parameters else moved
        return module.eval()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        special = getattr(self, f"_op_{name.strip('_')}", None)
        if special is not None:
            done, result = special(func, args, kwargs)
            if done:
                return result
        call = _Call(name)
        key = (func, call.key(args), call.key(tuple(kwargs.values())), tuple(kwargs))
        device = kwargs.get("device")
        made_there = device is not None and torch.device(device).type == "cuda"
        if not (call.on_gpu or made_there):
            return func(*args, **kwargs)
        if len(call.dtypes) > 1 and name in SAME_DTYPE:
            raise MixedDtypesError(f"{name} of {', '.join(sorted(map(str, call.dtypes)))} at {_site()}")
        if call.on_cpu:
            raise DevicesError(f"{name}: tensors on cuda:0 and cpu at {_site()}")
        if made_there:
            _check_generator(kwargs.get("generator"), "cuda")
        if name.endswith("_") and not name.endswith("__"):  # in place
            return args[0] if isinstance(args[0], GpuTensor) else None
        if key not in self._results:
            self._results[key] = _Result.of(func(*_inner(args), **_inner_options(kwargs)))
        return self._results[key].made()

    # Operations whose data the CPU needs, or that move data.

    def _op_local_scalar_dense(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        if not isinstance(args[0], GpuTensor):
            return False, None
        self.note_wait("value")
        if args[0].dtype == torch.bool:
            return True, True
        return True, 0.5 if args[0].dtype.is_floating_point else 0

    def _op_equal(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        if not any(isinstance(value, GpuTensor) for value in args):
            return False, None
        self.note_wait("equal")
        return True, True

    def _op_nonzero(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        if not isinstance(args[0], GpuTensor):
            return False, None
        self.note_wait("nonzero")
        return True, GpuTensor((1, args[0].ndim), (args[0].ndim, 1), torch.long)

    def _op_empty(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        if not kwargs.get("pin_memory"):
            return False, None
        pinned = func(*args, **{**kwargs, "pin_memory": False})
        pinned.pinned = True
        return True, pinned

    def _op_fused_sdp_choice(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        return isinstance(args[0], GpuTensor), EFFICIENT_ATTENTION

    def _op_to_copy(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        source, device = args[0], kwargs.get("device")
        to = source.device if device is None else torch.device(device)
        if to.type == source.device.type or to.type not in ("cuda", "cpu"):
            return False, None
        self.note_move(source, None, to, bool(kwargs.get("non_blocking")))
        dtype = kwargs.get("dtype") or source.dtype
        if to.type == "cuda":
            return True, GpuTensor.like(source, dtype)
        return True, self._made_up(source, dtype)

    def _op_copy(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        if "copy_" not in func.overloadpacket.__name__:
            return False, None
        target, source, *rest = args
        return self._copied(target, source, bool(rest[0] if rest else kwargs.get("non_blocking"))), target

    def _op_foreach_copy(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        targets, sources, *rest = args
        non_blocking = bool(rest[0] if rest else kwargs.get("non_blocking"))
        for target, source in zip(targets, sources):
            if not self._copied(target, source, non_blocking) and not isinstance(target, GpuTensor):
                target.copy_(source)
        return True, None

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool) -> bool:
        """Copy if it is between devices, and return whether it was."""
        if target.device.type == source.device.type:
            return False
        self.note_move(source, target, target.device, non_blocking)
        if target.device.type == "cpu":
            target.copy_(self._made_up(source, target.dtype).expand(target.shape))
        return True

    def _op_index(self, func: Any, args: Any, kwargs: Any) -> tuple[bool, Any]:
        tensor, indices = args[:2]
        if not isinstance(tensor, GpuTensor):
            return False, None
        if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
            self.note_wait("index of booleans")
            return True, GpuTensor((0,), (1,), tensor.dtype)
        if any(isinstance(index, Tensor) and not isinstance(index, GpuTensor) for index in indices):
            self.copies[f"{_site()} index on the CPU"] += 1
        return False, None

    _op_index_put = _op_index

    def _made_up(self, source: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype.is_floating_point:
            return (torch.rand(source.shape, generator=self._generator) * 0.9 + 0.05).to(dtype)
        return torch.ones(source.shape, dtype=dtype) if dtype == torch.bool else torch.zeros(source.shape, dtype=dtype)

    def note_wait(self, what: str) -> None:
        self.waits[f"{_site()} {what}"] += 1

    def note_move(self, source: Tensor, target: Tensor | None, to: torch.device, non_blocking: bool) -> None:
        """Record a copy between devices, unless it is one that the CPU does not wait for."""
        pinned = getattr(source, "pinned", False) or getattr(target, "pinned", False)
        if not (non_blocking and pinned):
            (self.copies if to.type == "cuda" else self.waits)[f"{_site()} copy to {to.type}"] += 1


class _Call:
    """The tensors of one operation, by `key`: their devices, and their dtypes if these are floats."""

    def __init__(self, name: str):
        self.on_gpu = self.on_cpu = False
        self.dtypes: set[torch.dtype] = set()
        self._across = name in ACROSS_DEVICES

    def key(self, value: Any) -> Any:
        """Return what the shapes, strides and dtypes of the results depend on."""
        if isinstance(value, GpuTensor):
            self.on_gpu = True
            geometry = value.geometry
            if geometry[2].is_floating_point:
                self.dtypes.add(geometry[2])
            return geometry
        if isinstance(value, Tensor):
            self.on_cpu = self.on_cpu or bool(value.ndim and not self._across)
            return value.shape, value.stride(), value.dtype
        if isinstance(value, list | tuple):
            return tuple([self.key(item) for item in value])
        return None if isinstance(value, torch.Generator) else value, type(value)


def _inner(value: Any) -> Any:
    """Return what the meta kernel gets in the place of an argument."""
    if isinstance(value, GpuTensor):
        shape, stride, dtype = value.geometry
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta")
    return type(value)(map(_inner, value)) if isinstance(value, list | tuple) else value


def _inner_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: _inner(value) for name, value in kwargs.items() if name != "generator"}
    return {**options, "device": "meta"} if options.get("device") is not None else options


@dataclass(frozen=True)
class _Result:
    """What an operation returns: a tensor of this layout, several results, or a plain value."""

    layout: tuple[Any, ...] | None = None
    several: tuple[_Result, ...] | None = None
    kind: type = tuple
    plain: Any = None

    @classmethod
    def of(cls, value: Any) -> _Result:
        if isinstance(value, Tensor):
            return cls(layout=(tuple(value.shape), value.stride(), value.dtype))
        if isinstance(value, list | tuple):
            return cls(several=tuple(map(cls.of, value)), kind=type(value))
        return cls(plain=value)

    def made(self) -> Any:
        if self.layout is not None:
            return GpuTensor(*self.layout)
        return self.plain if self.several is None else self.kind(result.made() for result in self.several)


def _check_generator(generator: torch.Generator | None, device: str) -> None:
    if generator is not None and generator.device.type != device:
        found = generator.device.type
        raise RuntimeError(f"Expected a '{device}' device type for generator but found '{found}'")


def _site() -> str:
    """Return the innermost line of the package that is running, else of any other code than torch's and this file's."""
    found, frame = "", sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if f"{os.sep}lib_blocktrain{os.sep}" in path:
            return _place(frame)
        if not found and f"{os.sep}torch{os.sep}" not in path and path != __file__:
            found = _place(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _place(frame: FrameType) -> str:
    path = frame.f_code.co_filename.rsplit(f"site-packages{os.sep}", 1)[-1].removeprefix(f"{ROOT}{os.sep}")
    return f"{path.removeprefix(f'lib_blocktrain{os.sep}')}:{frame.f_lineno} {frame.f_code.co_name}"


def install() -> PretendedGpu:
    """Make torch say that there is a GPU, and return it."""
    import torch._meta_registrations

    torch.autograd.set_multithreading_enabled(False)  # modes belong to a thread
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to: to another class of tensors
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda"): made on the CPU, and copied
    Tensor.pin_memory = _pin_memory  # type: ignore[method-assign, assignment]
    Tensor.is_pinned = lambda self, *_: getattr(self, "pinned", False)  # type: ignore[method-assign, assignment]
    properties = SimpleNamespace(major=9, minor=0, total_memory=80 * GIB, name="a pretended GPU")
    answers: Mapping[str, Any] = {
        "is_available": True,
        "is_bf16_supported": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "max_memory_allocated": GIB,
        "memory_allocated": GIB,
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "get_device_name": properties.name,
        "mem_get_info": (80 * GIB, 80 * GIB),
        "_lazy_init": None,
        "manual_seed_all": None,
        "manual_seed": None,
        "set_rng_state": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, _answer=answer, **__: _answer)
    gpu = PretendedGpu()
    torch.cuda.synchronize = lambda *_: gpu.note_wait("synchronize")
    torch.cuda.get_rng_state = lambda *_, **__: torch.zeros(16, dtype=torch.uint8)
    return gpu


def _pin_memory(self: Tensor, *_: Any) -> Tensor:
    if self.device.type != "cpu":
        raise RuntimeError(f"cannot pin {self.device} memory, only dense CPU tensors can be pinned")
    pinned = self.clone()
    pinned.pinned = True  # type: ignore[attr-defined]
    return pinned
