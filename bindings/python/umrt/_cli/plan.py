"""The command `plan`: whether a model fits, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .._context_info import KvType
from .._estimate import MACHINES, MemoryEstimate, NumbersPlan, estimate, plan_numbers
from .._model import ModelInfo, inspect
from .output import Commands, as_json, bar, count, decimal, size

CONTEXTS = (4096, 8192, 32_768, 131_072)
BAR_CELLS = 28
_KV_TYPES = {16: KvType.COMPUTED, 8: KvType.Q8_G64, 4: KvType.Q4_G64}
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "plan",
        help="whether a model fits, and what would",
        description="Says whether a model fits into the memory of this machine, or, by "
        "its numbers alone, of any machine.",
    )
    parser.add_argument("model", nargs="?", help="a folder with a checkpoint")
    parser.add_argument("--n-ctx", type=int, default=0, help="tokens of each sequence")
    parser.add_argument("--n-seq", type=int, default=1, help="sequences")
    parser.add_argument("--prefill-chunk", type=int, default=0, help="tokens of a step")
    parser.add_argument(
        "--kv-bits", type=float, default=16, help="of keys and values: 16, 8 or 4"
    )
    numbers = parser.add_argument_group("instead of a model, its numbers")
    numbers.add_argument("--parameters", type=quantity, help="such as 70e9 or 70B")
    numbers.add_argument(
        "--active-parameters",
        type=quantity,
        default=0.0,
        help="of a mixture of experts",
    )
    numbers.add_argument("--bits", type=float, default=16, help="per weight")
    numbers.add_argument("--layers", type=int, default=0)
    numbers.add_argument("--kv-heads", type=int, default=0)
    numbers.add_argument("--head-dim", type=int, default=0)
    numbers.add_argument("--memory", type=quantity, help="of the machine, such as 64GB")
    numbers.add_argument(
        "--fraction", type=float, default=0.75, help="of the memory, for models"
    )
    numbers.add_argument("--machine", help=f"one of {', '.join(MACHINES)}")
    numbers.add_argument("--bandwidth", type=float, default=0, help="in GB/s")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=_run)


def quantity(text: str) -> float:
    """70e9, 70B, 64GB, 64 GiB"""
    number = text.replace(" ", "").replace("_", "").upper()
    factor = 1.0
    if number.endswith("IB"):
        prefixes = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
        number, factor = number[:-3], float(prefixes.get(number[-3:-2], 0))
    elif number.endswith("B") and number[-2:-1] in _UNITS and number[-2:-1]:
        number, factor = number[:-2], _UNITS[number[-2]]
    elif number.endswith("B"):
        number, factor = number[:-1], 1e9
    elif number[-1:] in _UNITS and number[-1:]:
        number, factor = number[:-1], _UNITS[number[-1]]
    try:
        value = float(number) * factor
    except ValueError:
        value = 0.0
    if not 0 < value < 2**63:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no amount; write it like 70e9, 70B, 64GB or 64GiB"
        )
    return value


def _run(options: argparse.Namespace) -> str:
    if (options.model is None) == (options.parameters is None):
        raise ValueError("give either the folder of a model or --parameters")
    if options.model is None:
        return _numbers_json(options) if options.json else numbers_table(options)
    kv_type = _KV_TYPES.get(options.kv_bits)
    if kv_type is None:
        raise ValueError(f"--kv-bits is {options.kv_bits:g}; a model has 16, 8 or 4")
    show = _model_json if options.json else model_table
    return show(
        options.model, options.n_ctx, options.n_seq, options.prefill_chunk, kv_type
    )


def _estimator(
    path: str, n_seq: int, prefill_chunk: int, kv_type: KvType
) -> Callable[[int], MemoryEstimate]:
    """What a context of so many tokens takes."""
    return lambda n_ctx: estimate(
        path, n_ctx, n_seq, prefill_chunk=prefill_chunk, kv_type=kv_type
    )


def _model_json(
    path: str, n_ctx: int, n_seq: int, prefill_chunk: int, kv_type: KvType
) -> str:
    at = _estimator(path, n_seq, prefill_chunk, kv_type)
    wanted = at(n_ctx)
    lengths = sorted({*CONTEXTS, wanted.n_ctx})
    return as_json(
        {
            "path": path,
            "info": inspect(path),
            "estimate": wanted,
            "contexts": [at(length) for length in lengths],
        }
    )


class Row(NamedTuple):
    label: str
    n_bytes: int
    note: str = ""


def model_table(
    path: str, n_ctx: int, n_seq: int, prefill_chunk: int, kv_type: KvType
) -> str:
    """The fit of a checkpoint on this machine."""
    at = _estimator(path, n_seq, prefill_chunk, kv_type)
    info, wanted = inspect(path), at(n_ctx)
    lengths = sorted({*CONTEXTS, wanted.n_ctx})
    lines = [
        _headline(info),
        f"{size(wanted.usable_bytes)} usable by models: {wanted.usable_reason}"
        + (f"; {size(wanted.taken_bytes)} taken" if wanted.taken_bytes else ""),
        "",
        *_bars(_parts(wanted), wanted.usable_bytes),
        *_bars(
            [Row("total", wanted.total_bytes, _verdict(wanted.missing_bytes))],
            wanted.usable_bytes,
        ),
        "",
        f"{'context':>9}  {'KV cache':>10}  {'total':>10}",
        *(
            _context_line(length, at(length), length > info.max_context)
            for length in lengths
        ),
        "",
        *_advice(wanted),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _headline(info: ModelInfo) -> str:
    weights = (
        f"{info.quant_bits} bits in groups of {info.quant_group_size}"
        if info.quant_bits
        else "floats"
    )
    return (
        f"{info.model_type}, {count(info.n_parameters)} parameters, weights: {weights}"
    )


def _parts(wanted: MemoryEstimate) -> list[Row]:
    sequences = f" x {wanted.n_seq}" if wanted.n_seq > 1 else ""
    rows = [
        Row("weights, mapped", wanted.weights_mapped_bytes),
        Row("weights, copied", wanted.weights_copied_bytes),
        Row("KV cache", wanted.kv_bytes, f"{wanted.n_ctx:,} tokens{sequences}"),
        Row("logits", wanted.logits_bytes),
        Row("scratch, prefill", wanted.scratch_prefill_bytes),
        Row("scratch, decode", wanted.scratch_decode_bytes, "instead of the prefill's"),
        Row("free buffers", wanted.mlx_cache_bytes, "kept for the next step"),
        Row("tokenizer, tables", wanted.tables_bytes),
    ]
    return [row for row in rows if row.n_bytes]


def _context_line(length: int, found: MemoryEstimate, is_beyond: bool) -> str:
    note = _verdict(found.missing_bytes)
    if is_beyond:
        note += ", longer than trained for"
    bar = _bar(found.total_bytes, found.usable_bytes)
    return (
        f"{length:>9,}  {size(found.kv_bytes):>10}  {size(found.total_bytes):>10}  "
        f"{bar}  {note}"
    )


def _verdict(missing_bytes: int) -> str:
    return f"{size(missing_bytes)} too much" if missing_bytes else "fits"


def _advice(found: MemoryEstimate) -> Iterable[str]:
    largest = f"n_ctx {found.max_n_ctx:,}" if found.max_n_ctx else "no context"
    yield f"largest that fits: {largest}"
    if found.fits:
        return
    if found.max_n_seq:
        yield f"or {found.max_n_seq:,} sequences of {found.n_ctx:,} tokens"
    if found.fit_kv_bits:
        yield f"or a KV cache of {found.fit_kv_bits} bits"
    if found.fit_weight_bits:
        yield f"or weights of {found.fit_weight_bits} bits"


def _planner(options: argparse.Namespace) -> Callable[[int], NumbersPlan]:
    """What follows from the numbers for a context of so many tokens."""
    return lambda n_ctx: plan_numbers(
        options.parameters,
        bits=options.bits,
        memory_bytes=options.memory or 0,
        n_layers=options.layers,
        n_kv_heads=options.kv_heads,
        head_dim=options.head_dim,
        n_ctx=n_ctx,
        n_seq=options.n_seq,
        kv_bits=options.kv_bits,
        fraction=options.fraction,
        active_parameters=options.active_parameters,
        gigabytes_per_second=_bandwidth(options),
    )


def _has_cache(options: argparse.Namespace) -> bool:
    return bool(options.layers and options.kv_heads and options.head_dim)


def _numbers_json(options: argparse.Namespace) -> str:
    at = _planner(options)
    lengths = CONTEXTS if _has_cache(options) else ()
    contexts = [{"n_ctx": length, "plan": at(length)} for length in lengths]
    return as_json({"plan": at(options.n_ctx), "contexts": contexts})


def numbers_table(options: argparse.Namespace) -> str:
    """The fit of a model that is not here, on a machine that need not be."""
    bandwidth = _bandwidth(options)
    has_cache = _has_cache(options)
    at = _planner(options)
    plan = at(options.n_ctx)
    lines = [f"{count(options.parameters)} parameters of {options.bits:g} bits"]
    if options.memory:
        lines.append(
            f"{decimal(options.memory)} of memory, {decimal(plan.usable_bytes)} usable "
            f"by models ({options.fraction:.0%})"
        )
    lines += ["", _numbers_line("weights", plan.weight_bytes, at(0), options.memory)]
    if has_cache:
        wanted: list[int] = [options.n_ctx] if options.n_ctx else []
        lengths = sorted({*CONTEXTS, *wanted})
        lines += [
            _numbers_line(f"{n:,} tokens", at(n).total_bytes, at(n), options.memory)
            + f"  KV {decimal(at(n).kv_bytes)}"
            for n in lengths
        ]
        if options.memory:
            largest = f"n_ctx {plan.max_n_ctx:,}" if plan.max_n_ctx else "no context"
            lines += ["", f"largest that fits: {largest}"]
    else:
        lines += ["", "KV cache: give --layers, --kv-heads and --head-dim to see it"]
    if bandwidth:
        lines += ["", *_speed(plan, bandwidth, options.n_ctx if has_cache else 0)]
    return "\n".join(line.rstrip() for line in lines)


def _numbers_line(
    label: str, n_bytes: int, plan: NumbersPlan, memory: float | None
) -> str:
    line = f"{label:<16} {decimal(n_bytes):>10}"
    if not memory:
        return line
    verdict = _decimal_verdict(n_bytes - plan.usable_bytes)
    return f"{line}  {_bar(n_bytes, plan.usable_bytes)}  {verdict}"


def _decimal_verdict(missing_bytes: int) -> str:
    return f"{decimal(missing_bytes)} too much" if missing_bytes > 0 else "fits"


def _bandwidth(options: argparse.Namespace) -> float:
    if options.machine is None:
        return float(options.bandwidth)
    known = {name.lower(): rate for name, rate in MACHINES.items()}
    rate = known.get(options.machine.lower())
    if rate is None:
        raise ValueError(
            f"the machine {options.machine!r} is not known; give --bandwidth in GB/s, or "
            f"one of {', '.join(MACHINES)}"
        )
    return rate


def _speed(plan: NumbersPlan, bandwidth: float, n_ctx: int) -> Iterable[str]:
    yield (
        f"at most {plan.tokens_per_second:.1f} tokens/s: {bandwidth:,.0f} GB/s over what a "
        "token reads"
    )
    if n_ctx:
        yield (
            f"at most {plan.tokens_per_second_full:.1f} tokens/s behind {n_ctx:,} tokens"
        )


def _bars(rows: Iterable[Row], whole: int) -> Iterable[str]:
    for label, n_bytes, note in rows:
        yield f"{label:<18} {size(n_bytes):>10}  {_bar(n_bytes, whole)}  {note}"


def _bar(part: int, whole: int) -> str:
    return bar(part, whole, BAR_CELLS)
