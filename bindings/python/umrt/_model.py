"""Checkpoints: what is in them, and opening them."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, TypeVar

from . import _arguments, _ffi
from ._arguments import Tokens
from ._adapter import Adapter
from ._cancel import Cancel, optional_cancel
from ._constraint import Constraint
from ._context import Context
from ._context_info import Activations, KvType, Overflow
from ._handle import Closeable, Handle
from ._memory import ModelMemory, from_info
from ._text import Detokenizer, SpecialTokens, TokenInfo, text_of
from ._worker import Worker
from .errors import NotFoundError

Result = TypeVar("Result")

Device = str
"""`"auto"`, `"cpu"`, `"gpu"` or `"gpu:1"`, by the number of the GPU from 0."""
Precision = Literal["native", "float32"]
CpuOps = Literal["kernels", "stock"]
Load = Literal["map", "read", "direct"]
Residency = Literal["mapped", "warm", "locked", "released"]
Progress = Callable[[int, int], object]

_DEVICES = {
    "auto": _ffi.DEVICE_AUTO,
    "cpu": _ffi.DEVICE_CPU,
    "gpu": _ffi.DEVICE_GPU,
}
_PRECISIONS = {
    "native": _ffi.PRECISION_NATIVE,
    "float32": _ffi.PRECISION_FLOAT32,
}
_CPU_OPS = {
    "kernels": _ffi.CPU_OPS_KERNELS,
    "stock": _ffi.CPU_OPS_STOCK,
}
_LOADS = {
    "map": _ffi.LOAD_MAP,
    "read": _ffi.LOAD_READ,
    "direct": _ffi.LOAD_DIRECT,
}
_RESIDENCIES = {
    "mapped": _ffi.RESIDENCY_MAPPED,
    "warm": _ffi.RESIDENCY_WARM,
    "locked": _ffi.RESIDENCY_LOCKED,
    "released": _ffi.RESIDENCY_RELEASED,
}
_SPECIAL_TOKENS = {
    "bos": _ffi.SPECIAL_BOS,
    "eos": _ffi.SPECIAL_EOS,
    "unk": _ffi.SPECIAL_UNK,
    "sep": _ffi.SPECIAL_SEP,
    "pad": _ffi.SPECIAL_PAD,
    "cls": _ffi.SPECIAL_CLS,
    "mask": _ffi.SPECIAL_MASK,
}


@dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint is."""

    model_type: str
    """The architecture's name, such as "llama"."""
    n_parameters: int
    """Values in all weights."""
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    """Token ids are below this."""
    max_context: int
    """Positions the model was trained for."""
    quant_bits: int
    """Bits per quantized weight; 0: the weights are floats."""
    quant_group_size: int
    """Weights that share a scale; 0: the weights are floats."""
    weight_bytes: int
    """Bytes of all tensors in the files."""
    kv_bytes_per_token: int
    """Bytes that each token adds to a sequence's KV cache."""
    has_tokenizer: bool
    """Whether text can be tokenized."""
    has_chat_template: bool
    """Whether messages can be rendered."""
    device: Literal["cpu", "gpu"] | None
    """Where it computes; None if the model was only inspected."""


def inspect(path: str | os.PathLike[str]) -> ModelInfo:
    """Reads what a checkpoint is from its headers; no weight is touched.

    `path` is a directory with config.json and safetensors files.

    Raises NotFoundError, IoError, FormatError, UnsupportedError (names what).
    """
    info = _ffi.ModelInfo()
    encoded = _arguments.path(path)
    _ffi.check(_ffi.lib.umrt_model_inspect(encoded, ctypes.byref(info)))
    return _model_info(info)


class Model(Closeable):
    """An opened checkpoint. Immutable; any number of threads and contexts share it.

    Closing it does not disturb its contexts; they keep the weights mapped.
    """

    def __init__(self, handle: Handle, path: str) -> None:
        """For `Model.open`."""
        super().__init__(handle)
        self.path = path
        """The directory that it was opened from."""
        info = _ffi.ModelInfo()
        with handle as address:
            _ffi.check(_ffi.lib.umrt_model_info_get(address, ctypes.byref(info)))
        self.info = _model_info(info)
        """What the checkpoint is."""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        device: Device = "auto",
        precision: Precision = "native",
        cpu_ops: CpuOps = "kernels",
        load: Load = "map",
        memory_limit: int = 0,
        allow_paging: bool = False,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Model:
        """Opens a checkpoint by mapping it: the weights are not read before they
        are used, and are not copied (see `ModelMemory.weights_copied_bytes`).

        - `path`: a directory with config.json and safetensors files. They must
          not be changed while they are open: if another process shortens one,
          reading the missing part ends this process with SIGBUS.
        - `device`: "auto" is the first GPU if there is one, otherwise the CPU (the log
          says why); "gpu" is the first GPU, "gpu:1" the second.
        - `precision`: "native" computes in the type that the checkpoint was
          published in; "float32" is exact, but its KV cache is twice as large as
          for 16-bit checkpoints.
        - `cpu_ops`: "kernels" computes with umrt's own kernels on a CPU (unless
          the environment variable UMRT_CPU_OPS is "stock"), "stock" with MLX's
          operations, which are what runs on GPUs: slow, for comparisons.
        - `load`: "map" maps the files; "read" reads them into private memory, so that
          they may change afterwards; "direct" does so past the page cache.
        - `memory_limit`: bytes that the model may take at most, without its
          contexts. 0: what the memory budget leaves.
        - `allow_paging`: open the model even if its weights exceed the memory
          budget. What does not stay in memory is read from disk for every token,
          which is slow.
        - `progress(done, total)`: called in this thread while the model is
          opened, with layers, or bytes where weights are read. What it raises stops
          the opening and is raised from here.
        - `cancel`: stops the opening.

        Raises NotFoundError, IoError, FormatError (what is wrong in which file),
        UnsupportedError (names what), OverBudgetError (says by how much),
        CancelledError, OutOfMemoryError, BackendError.
        """
        encoded = _arguments.path(path)
        params = model_params(device, precision, cpu_ops, memory_limit, allow_paging)
        params.load = _arguments.choice("load", load, _LOADS)
        if progress is not None and not callable(progress):
            raise TypeError("progress must be callable")
        handle = _open(encoded, params, progress, optional_cancel(cancel))
        return cls(handle, os.fsdecode(encoded))

    def __repr__(self) -> str:
        return f"<umrt.Model {self.path!r}: {self.info.model_type}, {self.info.device}>"

    def metadata(self, key: str) -> str:
        """A value of the checkpoint's config.json.

        `key` is a name, or a path of names with dots: "rope_scaling.factor".
        A string is returned as it is, anything else as JSON.

        Raises NotFoundError if there is no such key.
        """
        encoded = _arguments.utf8_without_nul("key", key)
        with self._handle as address:
            return text_of(
                lambda *buffer: _ffi.lib.umrt_model_metadata(address, encoded, *buffer),
                expected_bytes=256,
            )

    def memory(self) -> ModelMemory:
        """The model's own memory."""
        info = _ffi.MemoryInfo()
        with self._handle as address:
            _ffi.check(_ffi.lib.umrt_model_memory_stats(address, ctypes.byref(info)))
        return from_info(ModelMemory, info)

    def set_residency(
        self,
        residency: Residency,
        *,
        drop_cache: bool = False,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """Brings the weights into memory, locks them there, or lets them go.

        - `residency`: "warm" reads all weights now, "locked" keeps them in memory as
          well, "released" takes their pages out of the process until they are used
          again, and "mapped" is how models are opened.
        - `drop_cache`: with "released", the page cache shall forget the files too.
        - `progress(done, total)`: called in this thread with bytes. What it raises
          stops the reading and is raised from here.
        - `cancel`: stops the reading.

        Raises IoError (the disk failed or a file was changed), OverBudgetError (the
        limit of locked memory), CancelledError.
        """
        number = _arguments.choice("residency", residency, _RESIDENCIES)
        params = _ffi.ResidencyParams(
            flags=_ffi.RESIDENCY_DROP_CACHE if drop_cache else 0
        )
        if progress is not None and not callable(progress):
            raise TypeError("progress must be callable")

        def call() -> None:
            with self._handle as address:
                reference = ctypes.byref(params)
                _ffi.check(_ffi.lib.umrt_model_residency(address, number, reference))

        run_with_progress(call, params, progress, optional_cancel(cancel))

    def set_policy(
        self,
        *,
        pinned: bool = False,
        priority: SupportsIndex = 0,
        idle_timeout_ms: SupportsIndex = 0,
    ) -> None:
        """Says when the model's pages are released for others.

        - `pinned`: never.
        - `priority`: models with less give way first; among equals the one unused for
          longest.
        - `idle_timeout_ms`: unused for so long, they are released; 0: they are not.
        """
        policy = _ffi.ModelPolicy(
            pinned=int(bool(pinned)),
            priority=_arguments.i32("priority", priority),
            idle_timeout_ms=_arguments.u32("idle_timeout_ms", idle_timeout_ms),
        )
        with self._handle as address:
            _ffi.check(_ffi.lib.umrt_model_policy_set(address, ctypes.byref(policy)))

    def set_prefix_cache(self, max_bytes: SupportsIndex) -> None:
        """Sets how many bytes the model's prefix cache may hold beside sequences: keys
        and values of texts that were evaluated, for others that begin alike. Contexts
        with `prefix_cache=True` use it.

        - `max_bytes`: 0 empties it and keeps nothing. Before the first call it is an
          eighth of what models may use.

        What it holds is given back as soon as a model or context needs the memory, and
        under memory pressure; `MemoryStats.prefix_cache_bytes` says how much it is.
        """
        limit = _arguments.u64("max_bytes", max_bytes)
        with self._handle as address:
            _ffi.check(_ffi.lib.umrt_model_prefix_cache_set(address, limit))

    def context(
        self,
        n_ctx: int = 0,
        n_seq: int = 1,
        *,
        prefill_chunk: int = 0,
        n_threads: int = 0,
        kv_type: KvType = KvType.COMPUTED,
        memory_limit: int = 0,
        prefix_cache: bool = False,
        overflow: Overflow = "refuse",
        n_keep: SupportsIndex = 0,
        pressure_kv_type: KvType | None = None,
        activations: Activations = "auto",
    ) -> Context:
        """A new `Context` of this model."""
        return Context(
            self,
            n_ctx,
            n_seq,
            prefill_chunk=prefill_chunk,
            n_threads=n_threads,
            kv_type=kv_type,
            memory_limit=memory_limit,
            prefix_cache=prefix_cache,
            overflow=overflow,
            n_keep=n_keep,
            pressure_kv_type=pressure_kv_type,
            activations=activations,
        )

    def adapter(self, path: str | os.PathLike[str]) -> Adapter:
        """Opens a LoRA adapter for this model by mapping it; the model stays as it
        is. `Context.set_adapters` uses it.

        - `path`: a directory as mlx-lm (adapter_config.json, adapters.safetensors)
          or PEFT (adapter_config.json, adapter_model.safetensors) writes it.

        Raises NotFoundError, FormatError (what is wrong in which file, or what does
        not fit to the model), UnsupportedError (adapters of embeddings and
        experts, biases, whole modules), OverBudgetError.
        """
        return Adapter(self, path)

    def constraint(
        self,
        *,
        json_schema: str | bool | Mapping[str, Any] | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        json: bool = False,
    ) -> Constraint:
        """What texts of `Context.generate` and `Scheduler.submit` may be:

            person = model.constraint(json_schema={"type": "object", ...})
            text = context.generate("A person: ", constraint=person).text()

        Exactly one of these:

        - `json_schema`: the text is JSON that this JSON Schema describes, an object as
          `json.dumps` takes it, or its text.
        - `regex`: a regular expression in the syntax of Rust's regex crate that matches
          the whole text, without anchors and look-around.
        - `grammar`: a context-free grammar in a variant of Lark's syntax, whose rule
          `start` is the text.
        - `json`: any JSON object.

        The first one takes the model's vocabulary apart, which is kept. docs/constraints.md
        lists the keywords of JSON Schema.

        Raises InvalidArgumentError (the text is no JSON, no expression or no grammar, or
        exceeds a limit; it says where and why), UnsupportedError (keywords that are not
        implemented; a tokenizer whose tokens have no text of their own),
        NotFoundError (no tokenizer), FormatError (it is broken).
        """
        return Constraint(
            self, json_schema=json_schema, regex=regex, grammar=grammar, json=json
        )

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Splits text into token ids.

        - `add_special`: add what the model expects around a text, such as a token
          that begins it. Leave it off for rendered chats, which contain it.
        - `parse_special`: read the spelling of a special token as that token.
          Leave it off for text from users, who could otherwise write control
          tokens.

        Raises NotFoundError (no tokenizer), FormatError (it is broken).
        """
        encoded = _arguments.utf8("text", text)
        flags = (_ffi.TOKENIZE_ADD_SPECIAL if add_special else 0) | (
            _ffi.TOKENIZE_PARSE_SPECIAL if parse_special else 0
        )
        capacity = len(encoded) + 8
        needed = ctypes.c_size_t()
        with self._handle as address:
            while True:
                buffer = (ctypes.c_int32 * capacity)()
                status = _ffi.lib.umrt_tokenize(
                    address,
                    encoded,
                    len(encoded),
                    flags,
                    buffer,
                    capacity,
                    ctypes.byref(needed),
                )
                if status != _ffi.NO_SPACE or needed.value <= capacity:
                    break
                capacity = needed.value
            _ffi.check(status)
        return buffer[: needed.value]

    def detokenize(self, tokens: Tokens, *, skip_special: bool = False) -> str:
        """Joins token ids to text. Bytes that are not UTF-8 become U+FFFD.

        `skip_special` leaves special tokens out of the text.

        Raises InvalidArgumentError (an id out of range), NotFoundError (no
        tokenizer), FormatError (it is broken).
        """
        ids = _arguments.int32_array("tokens", tokens)
        flags = _ffi.DETOKENIZE_SKIP_SPECIAL if skip_special else 0
        with self._handle as address:
            return text_of(
                lambda *buffer: _ffi.lib.umrt_detokenize(
                    address, ids, len(ids), flags, *buffer
                ),
                expected_bytes=16 * len(ids),
            )

    def detokenizer(self) -> Detokenizer:
        """A new stream of tokens to text."""
        return Detokenizer(self)

    def token_info(self, token: SupportsIndex) -> TokenInfo:
        """Describes one token.

        Raises InvalidArgumentError (no such token), NotFoundError (no
        tokenizer), FormatError (it is broken).
        """
        token = _arguments.i32("token", token)
        info = _ffi.TokenInfo()
        with self._handle as address:
            _ffi.check(_ffi.lib.umrt_token_info_get(address, token, ctypes.byref(info)))
        return TokenInfo(
            id=token,
            raw=ctypes.string_at(info.bytes, info.n_bytes),
            is_special=bool(info.flags & _ffi.TOKEN_SPECIAL),
            is_end=bool(info.flags & _ffi.TOKEN_END),
            is_byte=bool(info.flags & _ffi.TOKEN_BYTE),
        )

    @property
    def special_tokens(self) -> SpecialTokens:
        """Ids of the tokens with a role, such as `special_tokens.bos`.

        Raises NotFoundError (no tokenizer), FormatError (it is broken).
        """
        return SpecialTokens(
            **{
                name: self._special_token(kind)
                for name, kind in _SPECIAL_TOKENS.items()
            }
        )

    def _special_token(self, kind: int) -> int | None:
        token = ctypes.c_int32()
        try:
            with self._handle as address:
                _ffi.check(
                    _ffi.lib.umrt_special_token(address, kind, ctypes.byref(token))
                )
        except NotFoundError:
            if not self.info.has_tokenizer:
                raise
            return None
        return token.value

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_kwargs: Any,
    ) -> str:
        """Renders a conversation as the prompt that the model was trained on.

        - `messages`: dicts with "role" and "content".
        - `tools`: JSON schemas of functions that the model may call.
        - `template_kwargs`: "add_generation_prompt" (default True) and whatever
          else the model's template understands.

        Tokenize the result with `add_special=False, parse_special=True`.

        Raises InvalidArgumentError (the template refuses the conversation and
        says why), NotFoundError (the model has no template), FormatError (the
        template is broken).
        """
        request = _arguments.chat_request(messages, tools, template_kwargs)
        with self._handle as address:
            return text_of(
                lambda *buffer: _ffi.lib.umrt_chat_render(
                    address, request, len(request), *buffer
                ),
                expected_bytes=2 * len(request) + 1024,
            )


def _device(device: Device) -> tuple[int, int]:
    """The kind, and which GPU."""
    found = re.fullmatch("gpu:([0-9]+)", device) if isinstance(device, str) else None
    if found is not None:
        return _ffi.DEVICE_GPU, _arguments.u32("device", int(found[1]))
    return _arguments.choice("device", device, _DEVICES), 0


def model_params(
    device: Device,
    precision: Precision,
    cpu_ops: CpuOps,
    memory_limit: int,
    allow_paging: bool,
) -> _ffi.ModelParams:
    kind, gpu_index = _device(device)
    return _ffi.ModelParams(
        device=kind,
        gpu_index=gpu_index,
        precision=_arguments.choice("precision", precision, _PRECISIONS),
        cpu_ops=_arguments.choice("cpu_ops", cpu_ops, _CPU_OPS),
        memory_limit=_arguments.u64("memory_limit", memory_limit),
        flags=_ffi.MODEL_ALLOW_PAGING if allow_paging else 0,
    )


def _open(
    path: bytes,
    params: _ffi.ModelParams,
    progress: Progress | None,
    cancel: Cancel | None,
) -> Handle:
    def call() -> Handle:
        return Handle.create(
            "Model",
            _ffi.lib.umrt_model_free,
            _ffi.lib.umrt_model_open,
            path,
            ctypes.byref(params),
        )

    return run_with_progress(call, params, progress, cancel, Handle.close)


def run_with_progress(
    call: Callable[[], Result],
    params: _ffi.ModelParams | _ffi.ResidencyParams | _ffi.QuantizeParams,
    progress: Progress | None,
    cancel: Cancel | None,
    give_back: Callable[[Result], None] | None = None,
) -> Result:
    """Runs a call with these parameters on a worker; `give_back` gets what it made
    although it was stopped."""
    own = Cancel()

    def run() -> Result:
        params.progress = _ffi.PROGRESS_FN(
            lambda done, total, _: worker.send((done, total))
        )
        with own._handle as address:
            params.cancel = address
            return call()

    with own._following(cancel):
        worker: Worker[tuple[int, int], Result] = Worker(own)
        try:
            worker.start(run)
            for done, total in worker.events():
                if progress is not None:
                    progress(done, total)
        except BaseException:
            made = worker.stop()
            if made is not None and give_back is not None:
                give_back(made)
            raise
        return worker.result()


def _model_info(info: _ffi.ModelInfo) -> ModelInfo:
    devices: dict[int, Literal["cpu", "gpu"]] = {
        _ffi.DEVICE_CPU: "cpu",
        _ffi.DEVICE_GPU: "gpu",
    }
    return ModelInfo(
        model_type=info.model_type.decode(),
        n_parameters=info.n_parameters,
        n_layers=info.n_layers,
        hidden_size=info.hidden_size,
        intermediate_size=info.intermediate_size,
        n_heads=info.n_heads,
        n_kv_heads=info.n_kv_heads,
        head_dim=info.head_dim,
        vocab_size=info.vocab_size,
        max_context=info.max_context,
        quant_bits=info.quant_bits,
        quant_group_size=info.quant_group_size,
        weight_bytes=info.weight_bytes,
        kv_bytes_per_token=info.kv_bytes_per_token,
        has_tokenizer=bool(info.has_tokenizer),
        has_chat_template=bool(info.has_chat_template),
        device=devices.get(info.device),
    )
