"""Language models on the memory that is there: the Python API of umrt.

    import umrt

    with umrt.Model.open("path/to/checkpoint") as model, model.context() as context:
        for piece in context.generate("Once upon a time", max_tokens=100):
            print(piece, end="", flush=True)
    print(umrt.memory_stats())

Any function may be called from any thread. Native calls do not hold the GIL. A
`Model` is immutable and shared; a `Context`, a `Sampler` or a `Detokenizer` takes
one call at a time. Objects may be closed and collected in any order.
"""

from . import errors
from ._adapter import Adapter
from ._async import AsyncGeneration
from ._cancel import Cancel
from ._constraint import Constraint
from ._context import Context
from ._context_info import ContextInfo, KvType, Perf
from ._estimate import (
    MACHINES,
    MemoryBudget,
    MemoryEstimate,
    NumbersPlan,
    estimate,
    memory_budget,
    plan_numbers,
    set_memory_budget,
)
from ._generation import Generation, GenerationResult, StopReason
from ._library import (
    DeviceInfo,
    devices,
    init,
    library_path,
    library_version,
    log_to,
)
from ._measures import Pooling
from ._memory import (
    ContextMemory,
    Diagnosis,
    Finding,
    MemoryStats,
    ModelMemory,
    Trimmed,
    diagnose_memory,
    memory_stats,
    notify_memory_pressure,
    on_memory_pressure,
    spill_sequences_to,
    trim_memory,
)
from ._model import Model, ModelInfo, inspect
from ._quantize import quantize
from ._sampling import Sampler, Sampling
from ._scheduler import (
    ManyGenerations,
    RequestResult,
    ScheduledRequest,
    Scheduler,
    Step,
)
from ._text import Detokenizer, SpecialTokens, TokenInfo
from ._version import __version__
from .errors import (
    BackendError,
    BusyError,
    CancelledError,
    DeadlineExceededError,
    FormatError,
    InternalError,
    InvalidArgumentError,
    IoError,
    NoSpaceError,
    NotFoundError,
    OutOfMemoryError,
    OverBudgetError,
    PanicError,
    UmrtError,
    UnsupportedError,
)

__all__ = [
    "Adapter",
    "AsyncGeneration",
    "BackendError",
    "BusyError",
    "Cancel",
    "CancelledError",
    "DeadlineExceededError",
    "Constraint",
    "Context",
    "ContextInfo",
    "ContextMemory",
    "Detokenizer",
    "DeviceInfo",
    "Diagnosis",
    "Finding",
    "FormatError",
    "Generation",
    "GenerationResult",
    "InternalError",
    "InvalidArgumentError",
    "IoError",
    "KvType",
    "MACHINES",
    "ManyGenerations",
    "MemoryBudget",
    "MemoryEstimate",
    "MemoryStats",
    "Model",
    "ModelInfo",
    "ModelMemory",
    "NoSpaceError",
    "NotFoundError",
    "NumbersPlan",
    "OutOfMemoryError",
    "OverBudgetError",
    "PanicError",
    "Perf",
    "Pooling",
    "RequestResult",
    "Sampler",
    "Sampling",
    "ScheduledRequest",
    "Scheduler",
    "SpecialTokens",
    "Step",
    "StopReason",
    "TokenInfo",
    "Trimmed",
    "UmrtError",
    "UnsupportedError",
    "__version__",
    "devices",
    "diagnose_memory",
    "errors",
    "estimate",
    "init",
    "inspect",
    "library_path",
    "library_version",
    "log_to",
    "memory_budget",
    "memory_stats",
    "notify_memory_pressure",
    "on_memory_pressure",
    "plan_numbers",
    "quantize",
    "set_memory_budget",
    "spill_sequences_to",
    "trim_memory",
]
