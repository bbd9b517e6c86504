/**
 * @mainpage umrt, the unified-memory runtime
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Conventions
 *
 * - A call that can fail returns a umrt_status: 0 is UMRT_OK, and
 *   umrt_last_error() has a sentence about any other.
 * - Nothing in here ends the process or unwinds into it.
 * - What _new and _open give, _free takes back; NULL is ignored there. Handles
 *   keep what they were made from alive, so any order of freeing works.
 * - Structures begin with struct_size. Initialize them with UMRT_..._INIT; zero
 *   is the default of every field. Result structures are initialized likewise.
 * - (buffer, capacity, needed): needed always receives the capacity it takes; if
 *   there is less, the call returns NO_SPACE and writes nothing else.
 * - Any function may be called from any thread. A model is immutable and shared.
 *   Contexts, samplers and detoks take one call at a time; an overlapping second
 *   one gets BUSY. So do steps of a scheduler; its other calls never wait. Callbacks
 *   run on the thread of the call that they belong to.
 * - umrt's own threads handle none of the host's signals. A fork before the first
 *   model is opened is fine. In the child of a later one the threads are missing:
 *   calls that would evaluate or open a model, and memory statistics, return
 *   UNSUPPORTED, and _free leaves the memory to the end of the child.
 */


#ifndef UMRT_H
#define UMRT_H

/* Generated from src/capi by `cargo xtask header`: change it there. */

#include <stddef.h>
#include <stdint.h>

/* The version that this header belongs to; umrt_version() is the library's. */
#define UMRT_VERSION "0.1.0"
#define UMRT_VERSION_MAJOR 0
#define UMRT_VERSION_MINOR 1
#define UMRT_VERSION_PATCH 0

/* A structure with its size filled in and everything else zero. */
#ifdef __cplusplus
extern "C++" {
template <typename T>
inline T umrt_initialized() {
  T value = {};
  value.struct_size = static_cast<uint32_t>(sizeof(T));
  return value;
}
}
#define UMRT_INITIALIZED(type) umrt_initialized<type>()
#else
#define UMRT_INITIALIZED(type) ((type){.struct_size = sizeof(type)})
#endif

#define UMRT_INIT_PARAMS_INIT UMRT_INITIALIZED(umrt_init_params)
#define UMRT_DEVICE_INFO_INIT UMRT_INITIALIZED(umrt_device_info)
#define UMRT_MEMORY_INFO_INIT UMRT_INITIALIZED(umrt_memory_info)
#define UMRT_TRIM_RESULT_INIT UMRT_INITIALIZED(umrt_trim_result)
#define UMRT_MEMORY_ESTIMATE_INIT UMRT_INITIALIZED(umrt_memory_estimate)
#define UMRT_MEMORY_BUDGET_INIT UMRT_INITIALIZED(umrt_memory_budget)
#define UMRT_MEMORY_BUDGET_INFO_INIT UMRT_INITIALIZED(umrt_memory_budget_info)
#define UMRT_NUMBERS_INIT UMRT_INITIALIZED(umrt_numbers)
#define UMRT_NUMBERS_RESULT_INIT UMRT_INITIALIZED(umrt_numbers_result)
#define UMRT_MODEL_PARAMS_INIT UMRT_INITIALIZED(umrt_model_params)
#define UMRT_MODEL_INFO_INIT UMRT_INITIALIZED(umrt_model_info)
#define UMRT_TOKEN_INFO_INIT UMRT_INITIALIZED(umrt_token_info)
#define UMRT_CTX_PARAMS_INIT UMRT_INITIALIZED(umrt_ctx_params)
#define UMRT_CTX_INFO_INIT UMRT_INITIALIZED(umrt_ctx_info)
#define UMRT_PERF_INIT UMRT_INITIALIZED(umrt_perf)
#define UMRT_BATCH_INIT UMRT_INITIALIZED(umrt_batch)
#define UMRT_EVAL_RESULT_INIT UMRT_INITIALIZED(umrt_eval_result)
#define UMRT_RESIDENCY_PARAMS_INIT UMRT_INITIALIZED(umrt_residency_params)
#define UMRT_QUANTIZE_PARAMS_INIT UMRT_INITIALIZED(umrt_quantize_params)
#define UMRT_MODEL_POLICY_INIT UMRT_INITIALIZED(umrt_model_policy)
#define UMRT_MEMORY_DIAGNOSIS_INIT UMRT_INITIALIZED(umrt_memory_diagnosis)
#define UMRT_SAMPLER_PARAMS_INIT UMRT_INITIALIZED(umrt_sampler_params)
#define UMRT_GENERATE_PARAMS_INIT UMRT_INITIALIZED(umrt_generate_params)
#define UMRT_GENERATE_RESULT_INIT UMRT_INITIALIZED(umrt_generate_result)
#define UMRT_SCHEDULER_PARAMS_INIT UMRT_INITIALIZED(umrt_scheduler_params)
#define UMRT_REQUEST_INIT UMRT_INITIALIZED(umrt_request)
#define UMRT_REQUEST_RESULT_INIT UMRT_INITIALIZED(umrt_request_result)
#define UMRT_STEP_RESULT_INIT UMRT_INITIALIZED(umrt_step_result)
#define UMRT_EMBED_PARAMS_INIT UMRT_INITIALIZED(umrt_embed_params)
#define UMRT_SCORE_PARAMS_INIT UMRT_INITIALIZED(umrt_score_params)


/**
 * The call did what it says.
 */
#define UMRT_OK 0

/**
 * The caller broke a documented rule: a NULL, an id or size out of range.
 */
#define UMRT_INVALID_ARGUMENT 1

/**
 * A path or name that is not there.
 */
#define UMRT_NOT_FOUND 2

/**
 * The operating system refused to read or write a file.
 */
#define UMRT_IO 3

/**
 * A malformed checkpoint, tokenizer or template.
 */
#define UMRT_FORMAT 4

/**
 * Well-formed, but not something this build can do; the message names it.
 */
#define UMRT_UNSUPPORTED 5

/**
 * The operating system has no memory left.
 */
#define UMRT_OUT_OF_MEMORY 6

/**
 * More memory than models may use; nothing was allocated.
 */
#define UMRT_OVER_BUDGET 7

/**
 * A context or the caller's buffer is full; nothing was written.
 */
#define UMRT_NO_SPACE 8

/**
 * Another call is using this handle.
 */
#define UMRT_BUSY 9

/**
 * Stopped by `umrt_cancel_trigger`.
 */
#define UMRT_CANCELLED 10

/**
 * MLX or its device failed.
 */
#define UMRT_BACKEND 11

/**
 * A bug in umrt; it was caught. Free the handle that the call used.
 */
#define UMRT_PANIC 12

/**
 * A bug in umrt that it noticed itself.
 */
#define UMRT_INTERNAL 13

/**
 * Stopped because the time that the call was given is over.
 */
#define UMRT_DEADLINE_EXCEEDED 14

/**
 * Changes when a program compiled against an older header no longer works.
 */
#define UMRT_ABI_VERSION 0

/**
 * `umrt_device_info.kind`: the CPU.
 */
#define UMRT_DEVICE_CPU 1

/**
 * `umrt_device_info.kind`: a GPU.
 */
#define UMRT_DEVICE_GPU 2

/**
 * Log level: something failed and the caller gets a status for it.
 */
#define UMRT_LOG_ERROR 1

/**
 * Log level: something is not as it should be, but goes on.
 */
#define UMRT_LOG_WARNING 2

/**
 * Log level: what was opened and how.
 */
#define UMRT_LOG_INFO 3

/**
 * Log level: more than most people want to know.
 */
#define UMRT_LOG_DEBUG 4

/**
 * The system does not say.
 */
#define UMRT_PRESSURE_UNKNOWN 0

/**
 * There is enough memory.
 */
#define UMRT_PRESSURE_NORMAL 1

/**
 * Some processes wait for memory. umrt gives back what costs little to get again.
 */
#define UMRT_PRESSURE_WARNING 2

/**
 * At times nothing runs for want of memory. umrt begins nothing new as well.
 */
#define UMRT_PRESSURE_CRITICAL 3

/**
 * For `umrt_memory_pressure_callback`: the system's own reports count as notices.
 */
#define UMRT_PRESSURE_WATCH 1

/**
 * For `umrt_memory_trim`: freed buffers that MLX keeps, and the free part of the
 * heap. They are allocated again as needed.
 */
#define UMRT_TRIM_MLX_CACHE 1

/**
 * For `umrt_memory_trim`: the pages of all models that are neither pinned nor
 * locked nor computing. They come back when they are used, from the page cache or
 * from disk.
 */
#define UMRT_TRIM_IDLE_MODELS 2

/**
 * For `umrt_memory_trim`: only those of models whose idle time is over (see
 * `umrt_model_policy`).
 */
#define UMRT_TRIM_TIMED_OUT_MODELS 4

/**
 * For `umrt_memory_trim`: keys and values of contexts that are not computing go to
 * the directory of `umrt_memory_spill_set`. They come back when they are used.
 */
#define UMRT_TRIM_IDLE_SEQUENCES 8

/**
 * For `umrt_memory_trim`: keys and values that only prefix caches hold. Texts that begin
 * alike are evaluated again.
 */
#define UMRT_TRIM_PREFIX_CACHES 16

/**
 * For `umrt_memory_trim`: keys and values of contexts that are not computing are stored
 * as their `umrt_ctx_params.pressure_kv_type` says, if they have one. The one step that
 * is not lossless.
 */
#define UMRT_TRIM_REDUCE_SEQUENCES 32

/**
 * `umrt_model_params.device`: the first GPU if there is one, otherwise the CPU; the
 * log says why.
 */
#define UMRT_DEVICE_AUTO 0

/**
 * `umrt_model_params.precision`: the type that the checkpoint was published in.
 */
#define UMRT_PRECISION_NATIVE 0

/**
 * `umrt_model_params.precision`: compute in float32 whatever the weights are;
 * exact, but with a KV cache twice as large as for 16-bit checkpoints.
 */
#define UMRT_PRECISION_FLOAT32 1

/**
 * `umrt_model_params.cpu_ops`: on a CPU, umrt's own kernels where there are any.
 * The environment variable UMRT_CPU_OPS=stock turns this into the next one.
 */
#define UMRT_CPU_OPS_KERNELS 0

/**
 * `umrt_model_params.cpu_ops`: on a CPU, only MLX's stock operations, which are
 * what runs on GPUs. Slow; for comparisons.
 */
#define UMRT_CPU_OPS_STOCK 1

/**
 * `umrt_model_params.flags`: open the model even if its weights exceed the budget.
 * What does not stay in memory is read from disk for every token, which is slow.
 */
#define UMRT_MODEL_ALLOW_PAGING 1

/**
 * `umrt_model_params.load`: the files are mapped. Nothing is read before it is
 * used, and each byte is in memory once, in the page cache, which the system can
 * drop and read again. The files must not be changed meanwhile.
 */
#define UMRT_LOAD_MAP 0

/**
 * `umrt_model_params.load`: the files are read into private memory at once
 * (`weights_copied_bytes`). They may be changed or removed afterwards; the page
 * cache holds a second copy for as long as the system likes.
 */
#define UMRT_LOAD_READ 1

/**
 * `umrt_model_params.load`: as UMRT_LOAD_READ, but past the page cache, so that
 * there is no second copy. UNSUPPORTED where the file system cannot.
 */
#define UMRT_LOAD_DIRECT 2

/**
 * `umrt_tokenize`: add what the model expects around a text, such as a token
 * that begins it. Leave it off for rendered chats, which contain it.
 */
#define UMRT_TOKENIZE_ADD_SPECIAL 1

/**
 * `umrt_tokenize`: read the spelling of a special token as that token. Leave it
 * off for text from users, who could otherwise write control tokens.
 */
#define UMRT_TOKENIZE_PARSE_SPECIAL 2

/**
 * `umrt_detokenize`: leave special tokens out of the text.
 */
#define UMRT_DETOKENIZE_SKIP_SPECIAL 1

/**
 * `umrt_token_info.flags`: a control token, without text for people.
 */
#define UMRT_TOKEN_SPECIAL 1

/**
 * `umrt_token_info.flags`: ends a text.
 */
#define UMRT_TOKEN_END 2

/**
 * `umrt_token_info.flags`: one byte of a character that has no token.
 */
#define UMRT_TOKEN_BYTE 4

/**
 * `umrt_special_token`: begins a text.
 */
#define UMRT_SPECIAL_BOS 0

/**
 * `umrt_special_token`: ends a text.
 */
#define UMRT_SPECIAL_EOS 1

/**
 * `umrt_special_token`: stands for what the vocabulary lacks.
 */
#define UMRT_SPECIAL_UNK 2

/**
 * `umrt_special_token`: between texts.
 */
#define UMRT_SPECIAL_SEP 3

/**
 * `umrt_special_token`: fills up batches.
 */
#define UMRT_SPECIAL_PAD 4

/**
 * `umrt_special_token`: stands for the whole text.
 */
#define UMRT_SPECIAL_CLS 5

/**
 * `umrt_special_token`: hides a word.
 */
#define UMRT_SPECIAL_MASK 6

/**
 * `umrt_ctx_params.kv_type`: keys and values are stored in the type that the model
 * computes in.
 */
#define UMRT_KV_COMPUTED 0

/**
 * As 32-bit floats.
 */
#define UMRT_KV_F32 1

/**
 * As 16-bit floats of IEEE 754.
 */
#define UMRT_KV_F16 2

/**
 * As bfloat16.
 */
#define UMRT_KV_BF16 3

/**
 * As whole numbers of 8 bits, with a scale and a bias for every 64.
 */
#define UMRT_KV_Q8_G64 4

/**
 * As whole numbers of 8 bits, with a scale and a bias for every 32.
 */
#define UMRT_KV_Q8_G32 5

/**
 * As whole numbers of 4 bits, with a scale and a bias for every 64.
 */
#define UMRT_KV_Q4_G64 6

/**
 * As whole numbers of 4 bits, with a scale and a bias for every 32.
 */
#define UMRT_KV_Q4_G32 7

/**
 * `umrt_ctx_params.overflow`: tokens that do not fit behind a sequence are refused
 * (NO_SPACE), and `umrt_generate` ends with `UMRT_STOP_CONTEXT_FULL`.
 */
#define UMRT_OVERFLOW_REFUSE 0

/**
 * The oldest tokens behind the first `n_keep` are removed as by `umrt_seq_shift`: half of
 * them at a time, so that it costs next to nothing for each token. If the evaluation
 * fails afterwards, they stay removed. Tokens that would not even fit behind the first
 * `n_keep` are refused. UNSUPPORTED for models with recurrent layers.
 */
#define UMRT_OVERFLOW_SHIFT 1

/**
 * `umrt_ctx_params.activations`: 15 bits for a single token and where guesses are checked,
 * 8 bits where several bfloat16 tokens are evaluated together.
 */
#define UMRT_ACTIVATIONS_AUTO 0

/**
 * 8 bits, with a scale for every 32. Checking guesses costs much less, so that they pay
 * more often. Next-token distributions differ from those of exact activations by about as
 * much as where bfloat16 tokens are evaluated together anyway. Up to 12 tokens of a step
 * that are not in the middle of a prompt are computed as if each was alone: what a
 * sequence gets does not depend on others that decode beside it. Float32 activations stay
 * as they are, and NVFP4 weights get 15 bits. On GPUs, and with MLX's operations,
 * UNSUPPORTED.
 */
#define UMRT_ACTIVATIONS_EIGHT_BITS 1

/**
 * For `umrt_model_residency`: weights come in as they are used, and stay as long
 * as the system likes. This is how models are opened; what is in memory stays.
 */
#define UMRT_RESIDENCY_MAPPED 0

/**
 * For `umrt_model_residency`: all weights are read now, so that the first token
 * does not wait for the disk.
 */
#define UMRT_RESIDENCY_WARM 1

/**
 * For `umrt_model_residency`: as WARM, and the system keeps them in memory, as far
 * as RLIMIT_MEMLOCK allows.
 */
#define UMRT_RESIDENCY_LOCKED 2

/**
 * For `umrt_model_residency`: all pages leave the process. The model stays usable
 * and they come back as they are used, from the page cache or from disk. Private
 * memory (`UMRT_LOAD_READ`) is only marked as what may be swapped out first.
 */
#define UMRT_RESIDENCY_RELEASED 3

/**
 * `umrt_residency_params.flags`: with `UMRT_RESIDENCY_RELEASED`, the page cache is
 * asked to forget the files as well. It keeps what other processes have mapped.
 * Linux only.
 */
#define UMRT_RESIDENCY_DROP_CACHE 1

/**
 * Memory is fine.
 */
#define UMRT_FINDING_NORMAL 0

/**
 * A weight file was changed while its model is open.
 */
#define UMRT_FINDING_FILE_CHANGED 1

/**
 * Private memory was moved to swap.
 */
#define UMRT_FINDING_SWAPPING 2

/**
 * Weights do not fit into memory and are read again and again.
 */
#define UMRT_FINDING_PAGING 3

/**
 * More is held than models may use.
 */
#define UMRT_FINDING_OVER_BUDGET 4

/**
 * The system is short of memory.
 */
#define UMRT_FINDING_PRESSURE 5

/**
 * Weights are being read for the first time.
 */
#define UMRT_FINDING_LOADING 6

/**
 * A sequence has filled nine tenths of `n_ctx`.
 */
#define UMRT_FINDING_CONTEXT_NEARLY_FULL 7

/**
 * Mapped weights had to be copied.
 */
#define UMRT_FINDING_HELD_TWICE 8

/**
 * `umrt_quantize_params.mode`: whole numbers of 2, 3, 4, 5, 6 or 8 bits, with a
 * scale and a bias for each 32, 64 or 128.
 */
#define UMRT_QUANTIZE_AFFINE 0

/**
 * `umrt_quantize_params.mode`: floats of 4 bits, with a power of two for each 32.
 */
#define UMRT_QUANTIZE_MXFP4 1

/**
 * `umrt_quantize_params.mode`: floats of 8 bits, with a power of two for each 32.
 */
#define UMRT_QUANTIZE_MXFP8 2

/**
 * `umrt_quantize_params.mode`: floats of 4 bits, with a float of 8 for each 16.
 */
#define UMRT_QUANTIZE_NVFP4 3

/**
 * `umrt_quantize_params.recipe`: the same bits for all.
 */
#define UMRT_RECIPE_NONE 0

/**
 * `umrt_quantize_params.recipe`: 2 bits, and 6 for values and the matrices behind
 * the gate in some layers, and for the output.
 */
#define UMRT_RECIPE_MIXED_2_6 1

/**
 * `umrt_quantize_params.recipe`: likewise with 3 and 4 bits.
 */
#define UMRT_RECIPE_MIXED_3_4 2

/**
 * `umrt_quantize_params.recipe`: likewise with 3 and 6 bits.
 */
#define UMRT_RECIPE_MIXED_3_6 3

/**
 * `umrt_quantize_params.recipe`: likewise with 4 and 6 bits.
 */
#define UMRT_RECIPE_MIXED_4_6 4

/**
 * `umrt_quantize_params.dtype`: as the checkpoint has them; as its config.json says
 * under "torch_dtype", if it does.
 */
#define UMRT_DTYPE_KEPT 0

/**
 * `umrt_quantize_params.dtype`
 */
#define UMRT_DTYPE_F32 1

/**
 * `umrt_quantize_params.dtype`
 */
#define UMRT_DTYPE_F16 2

/**
 * `umrt_quantize_params.dtype`
 */
#define UMRT_DTYPE_BF16 3

/**
 * `umrt_quantize_params.flags`: a model at the target is replaced, once the new one
 * is complete.
 */
#define UMRT_QUANTIZE_REPLACE 1

/**
 * A JSON Schema: the text is JSON that it describes. docs/constraints.md lists the
 * keywords.
 */
#define UMRT_CONSTRAINT_JSON_SCHEMA 1

/**
 * A regular expression in the syntax of Rust's regex crate, without anchors and
 * look-around: it matches the whole text.
 */
#define UMRT_CONSTRAINT_REGEX 2

/**
 * A context-free grammar in a variant of Lark's syntax, whose rule `start` is the text.
 */
#define UMRT_CONSTRAINT_GRAMMAR 3

/**
 * Any JSON object; `text` is empty.
 */
#define UMRT_CONSTRAINT_JSON 4

/**
 * `umrt_generate_params.flags`: go on behind the token that ends a text.
 */
#define UMRT_GENERATE_IGNORE_END 1

/**
 * `umrt_generate_params.flags`, for requests beside others (`umrt_request`): uses
 * sequence `seq` as `umrt_generate` does, as soon as no other request uses it.
 */
#define UMRT_GENERATE_IN_SEQ 2

/**
 * Tokens that are guessed at a time, at most.
 */
#define UMRT_MAX_DRAFT 11

/**
 * `umrt_generate_result.stop_reason`: the model ended the text, or nothing can be added
 * to it under its constraint.
 */
#define UMRT_STOP_END 1

/**
 * `umrt_generate_result.stop_reason`: `max_tokens` were generated.
 */
#define UMRT_STOP_MAX_TOKENS 2

/**
 * `umrt_generate_result.stop_reason`: a stop string was reached.
 */
#define UMRT_STOP_STRING 3

/**
 * `umrt_generate_result.stop_reason`: the callback wanted no more.
 */
#define UMRT_STOP_CALLBACK 4

/**
 * `umrt_generate_result.stop_reason`: the sequence holds `n_ctx` tokens.
 */
#define UMRT_STOP_CONTEXT_FULL 5

/**
 * `umrt_embed_params.pooling`: the average of all tokens' states.
 */
#define UMRT_POOLING_MEAN 0

/**
 * The last token's state, as models with causal attention for embeddings want it.
 */
#define UMRT_POOLING_LAST 1

/**
 * The first token's state ("CLS").
 */
#define UMRT_POOLING_FIRST 2

/**
 * `umrt_embed_params.flags`: scale vectors to the length 1.
 */
#define UMRT_EMBED_NORMALIZE 1

/**
 * A LoRA adapter of a model. Immutable, for any of the model's contexts.
 */
typedef struct umrt_adapter umrt_adapter;

/**
 * A flag that stops running calls from another thread. It is a handle of its
 * own, so that triggering it never races with freeing what it stops.
 */
typedef struct umrt_cancel umrt_cancel;

/**
 * What a text may be, compiled for a model's tokens. Immutable: any number of
 * generations of the model use it, at the same time, too.
 */
typedef struct umrt_constraint umrt_constraint;

/**
 * Sequences of one model and their KV caches. Takes one call at a time; a
 * second, overlapping one gets BUSY. Several contexts run at once.
 */
typedef struct umrt_ctx umrt_ctx;

/**
 * Turns a stream of tokens into text. Takes one call at a time.
 */
typedef struct umrt_detok umrt_detok;

/**
 * An opened checkpoint. Immutable; shared by its contexts, which keep it alive.
 */
typedef struct umrt_model umrt_model;

/**
 * Chooses tokens, and remembers them for penalties. Takes one call at a time.
 */
typedef struct umrt_sampler umrt_sampler;

/**
 * Runs requests over one context, step by step. Each step evaluates one token of
 * every request that decodes; what is left of its tokens, at least one, goes to
 * prompts in order of arrival. So no request waits longer for its next token than
 * one step takes, whatever prompts come, and every prompt is read in the end.
 *
 * What a request gives does not depend on the others, but for rounding: see
 * `UMRT_PRECISION_FLOAT32`.
 *
 * Steps take one call at a time: a second, overlapping one gets BUSY. The other
 * functions never wait and may be called meanwhile, from callbacks too.
 */
typedef struct umrt_scheduler umrt_scheduler;

/**
 * What a call returns: 0 (`UMRT_OK`) or the kind of failure. The numbers never
 * change; `umrt_last_error` has the sentence that goes with a failure.
 */
typedef int32_t umrt_status;

/**
 * For `umrt_init`.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  /**
   * Bytes of freed buffers that MLX may keep for reuse. 0: as much as the
   * largest step of any context takes.
   */
  uint64_t mlx_cache_limit;
} umrt_init_params;

/**
 * One device to compute on.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_DEVICE_CPU` or `UMRT_DEVICE_GPU`.
   */
  uint32_t kind;
  /**
   * Bytes that models may use on it.
   */
  uint64_t usable_bytes;
  /**
   * For people: what it is and which MLX drives it.
   */
  char name[64];
  /**
   * Bytes of its memory: the machine's, unless a GPU has its own.
   */
  uint64_t total_bytes;
  /**
   * Of a GPU's own memory, what nobody uses now; 0: MLX does not say.
   */
  uint64_t free_bytes;
  /**
   * For `umrt_model_params.gpu_index`; 0 for the CPU.
   */
  uint32_t gpu_index;
  uint32_t reserved;
} umrt_device_info;

/**
 * Receives log messages: `message` is NUL-terminated and valid during the call.
 * Called from any thread that uses umrt; must not call umrt.
 */
typedef void (*umrt_log_fn)(int32_t level, const char *message, void *userdata);

/**
 * What memory is used for, in bytes. For a model, a context or a sequence only
 * its own fields are filled; the others are 0.
 *
 * Private memory that is accounted for is counted once, in one of
 * `weights_copied_bytes`, `kv_reserved_bytes`, `prefix_cache_bytes`, `logits_bytes`,
 * `scratch_bytes`, `mlx_cache_bytes` and `text_bytes`, whose sum is `total_bytes`; beyond what
 * the process had before it used umrt, `process_anonymous_bytes` is that sum without
 * `gpu_bytes`, and the stacks and small buffers of its threads. Mapped weights are no private
 * memory; they are the page cache's.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  /**
   * Memory of the machine.
   */
  uint64_t physical_bytes;
  /**
   * What models may use of it.
   */
  uint64_t usable_bytes;
  /**
   * Weights used where their file is mapped. They are in memory once, shared
   * with the page cache, and can be dropped and read again by the system.
   */
  uint64_t weights_mapped_bytes;
  /**
   * How much of the mapped files the page cache holds now. It stays there when
   * a model is released, until the system needs the room.
   */
  uint64_t weights_resident_bytes;
  /**
   * Weights that had to be copied out of their file, or were read into private
   * memory (`UMRT_LOAD_READ`, `UMRT_LOAD_DIRECT`).
   */
  uint64_t weights_copied_bytes;
  /**
   * Keys and values: allocated. What forks of a sequence share counts once.
   */
  uint64_t kv_reserved_bytes;
  /**
   * Of that, filled with tokens.
   */
  uint64_t kv_used_bytes;
  /**
   * Logits of each context's last evaluation.
   */
  uint64_t logits_bytes;
  /**
   * Intermediate results: the rest of MLX's active memory, and buffers that kernels
   * hold for as long as their threads live.
   */
  uint64_t scratch_bytes;
  /**
   * MLX's arrays: logits, copied weights, scratch; on a GPU the KV cache.
   */
  uint64_t mlx_active_bytes;
  /**
   * Freed buffers that MLX keeps for reuse.
   */
  uint64_t mlx_cache_bytes;
  /**
   * The highest `mlx_active_bytes` so far.
   */
  uint64_t mlx_peak_bytes;
  /**
   * The process: private memory, resident.
   */
  uint64_t process_anonymous_bytes;
  /**
   * The process: memory backed by files, resident; mapped weights and code.
   */
  uint64_t process_file_bytes;
  /**
   * Page faults served from memory since the process began.
   */
  uint64_t minor_faults;
  /**
   * Page faults that read from disk.
   */
  uint64_t major_faults;
  /**
   * What bounds `usable_bytes`, for people. Static; NULL for models and contexts.
   */
  const char *usable_reason;
  /**
   * Weight files locked in memory (`UMRT_RESIDENCY_LOCKED`).
   */
  uint64_t weights_locked_bytes;
  /**
   * Tokenizers and chat templates, estimated from the entries of their tables; 0
   * until they are first used.
   */
  uint64_t text_bytes;
  /**
   * Private memory that is accounted for: the sum named above.
   */
  uint64_t total_bytes;
  /**
   * The highest `kv_reserved_bytes` so far.
   */
  uint64_t kv_peak_bytes;
  /**
   * The process: the highest that resident memory has been, files included.
   */
  uint64_t process_peak_bytes;
  /**
   * The process: private memory that was moved to swap.
   */
  uint64_t swap_bytes;
  /**
   * `UMRT_PRESSURE_NORMAL`, `_WARNING` or `_CRITICAL`, by how long processes
   * waited for memory in the last ten seconds, in the machine or in this control
   * group; `UMRT_PRESSURE_UNKNOWN` where the system has no such figures.
   */
  uint32_t pressure_level;
  /**
   * The share of these ten seconds in which at least one waited.
   */
  float pressure_percent;
  /**
   * Tensors of adapters, used where their file is mapped; what had to be copied of
   * them is among `weights_copied_bytes`.
   */
  uint64_t adapters_bytes;
  /**
   * Keys and values that only prefix caches hold.
   */
  uint64_t prefix_cache_bytes;
  /**
   * Keys and values of idle sequences that are on disk (`umrt_memory_spill_set`): no
   * memory.
   */
  uint64_t kv_spilled_bytes;
  /**
   * Of `total_bytes`, what is in the memory of GPUs that have their own, and not in
   * the machine's.
   */
  uint64_t gpu_bytes;
  /**
   * The highest that the kernels' buffers, which are part of `scratch_bytes`, have
   * been.
   */
  uint64_t kernels_peak_bytes;
} umrt_memory_info;

/**
 * What was given back.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * Models whose pages were released.
   */
  uint32_t n_models;
  /**
   * Bytes by which `mlx_cache_bytes` shrank.
   */
  uint64_t mlx_cache_bytes;
  /**
   * Bytes by which `process_anonymous_bytes` shrank: MLX's buffers and the free
   * part of the heap.
   */
  uint64_t private_bytes;
  /**
   * Bytes by which `process_file_bytes` shrank: pages of models.
   */
  uint64_t model_bytes;
  /**
   * Bytes by which `kv_reserved_bytes` shrank since sequences are on disk now.
   */
  uint64_t sequence_bytes;
  /**
   * How many these are.
   */
  uint32_t n_sequences;
  /**
   * Sequences that are stored as their contexts' `pressure_kv_type` says now.
   */
  uint32_t n_reduced;
  /**
   * Bytes by which `prefix_cache_bytes` shrank.
   */
  uint64_t prefix_cache_bytes;
  /**
   * Bytes by which `kv_reserved_bytes` shrank because of `n_reduced` sequences.
   */
  uint64_t reduced_bytes;
} umrt_trim_result;

/**
 * Hears of memory pressure: `level` is one of `UMRT_PRESSURE_*`, and
 * `given_back_bytes` what umrt gave back because of it.
 */
typedef void (*umrt_pressure_fn)(uint32_t level, uint64_t given_back_bytes, void *userdata);

/**
 * What a checkpoint is.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t n_layers;
  uint32_t hidden_size;
  uint32_t intermediate_size;
  uint32_t n_heads;
  uint32_t n_kv_heads;
  /**
   * Of keys and of values. With latent attention, of the one key that a token has,
   * whose part its values are.
   */
  uint32_t head_dim;
  /**
   * Token ids are below this.
   */
  uint32_t vocab_size;
  /**
   * Positions the model was trained for.
   */
  uint32_t max_context;
  /**
   * Bits per quantized weight; 0: the weights are floats.
   */
  uint32_t quant_bits;
  /**
   * Weights that share a scale; 0: the weights are floats.
   */
  uint32_t quant_group_size;
  /**
   * 1 if text can be tokenized, else 0.
   */
  uint32_t has_tokenizer;
  /**
   * 1 if messages can be rendered, else 0.
   */
  uint32_t has_chat_template;
  /**
   * `UMRT_DEVICE_CPU` or `UMRT_DEVICE_GPU`; 0 if the model was only inspected.
   */
  uint32_t device;
  /**
   * Values in all weights.
   */
  uint64_t n_parameters;
  /**
   * Bytes of all tensors in the files.
   */
  uint64_t weight_bytes;
  /**
   * Bytes that each token adds to a sequence's KV cache.
   */
  uint64_t kv_bytes_per_token;
  /**
   * The architecture's name, such as "llama".
   */
  char model_type[64];
} umrt_model_info;

/**
 * Called while a model is opened or its weights are read, on the calling thread:
 * `done` of `total` layers, or bytes where weights are read.
 */
typedef void (*umrt_progress_fn)(size_t done, size_t total, void *userdata);

/**
 * For `umrt_model_open`.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_DEVICE_AUTO`, `UMRT_DEVICE_CPU` or `UMRT_DEVICE_GPU`.
   */
  uint32_t device;
  /**
   * `UMRT_PRECISION_NATIVE` or `UMRT_PRECISION_FLOAT32`.
   */
  uint32_t precision;
  /**
   * `UMRT_CPU_OPS_KERNELS` or `UMRT_CPU_OPS_STOCK`.
   */
  uint32_t cpu_ops;
  /**
   * May be NULL.
   */
  umrt_progress_fn progress;
  void *progress_userdata;
  /**
   * Stops the opening; may be NULL.
   */
  const umrt_cancel *cancel;
  /**
   * Bytes that the model may take at most, without its contexts. 0: what the
   * budget leaves.
   */
  uint64_t memory_limit;
  /**
   * `UMRT_MODEL_ALLOW_PAGING` or 0.
   */
  uint32_t flags;
  /**
   * `UMRT_LOAD_MAP`, `UMRT_LOAD_READ` or `UMRT_LOAD_DIRECT`.
   */
  uint32_t load;
  /**
   * With `UMRT_DEVICE_GPU`: which of them, from 0; see `umrt_device_info.gpu_index`.
   */
  uint32_t gpu_index;
  uint32_t reserved;
} umrt_model_params;

/**
 * What one token stands for.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_TOKEN_*`
   */
  uint32_t flags;
  /**
   * What it adds to a text: `n_bytes` bytes, which may be part of a character.
   * Valid until the thread's next `umrt_token_info_get`.
   */
  const uint8_t *bytes;
  uint32_t n_bytes;
  uint32_t reserved;
} umrt_token_info;

/**
 * For `umrt_ctx_new`. 0 means the default.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * Tokens that each sequence may hold. Default: what the model was trained
   * for, but at most 8192. Memory grows with the tokens that are there.
   */
  uint32_t n_ctx;
  /**
   * Sequences. Default: 1.
   */
  uint32_t n_seq;
  /**
   * Tokens that are evaluated together at most: more is faster for prompts
   * and takes more scratch memory. Default: 512.
   */
  uint32_t prefill_chunk;
  /**
   * Threads that compute on the CPU, at most 1024; contexts with the same
   * number share them. Default: the physical cores that the process may use,
   * by its affinity mask and its control group's quota. More gain nothing; use
   * fewer to leave cores to the application.
   */
  uint32_t n_threads;
  /**
   * How keys and values are stored, `UMRT_KV_*`. Fewer bits take less memory and
   * cost accuracy: with 8 bits hardly any, with 4 bits some; 8 and 4 bits also
   * cost time behind long prompts. Groups must divide the dimensions of the
   * model's heads.
   */
  uint32_t kv_type;
  /**
   * Bytes that the context may take at most. Default: what the budget leaves.
   */
  uint64_t memory_limit;
  /**
   * Nonzero: blocks of 256 tokens that sequences complete, and all that they give
   * up, are kept in the model's prefix cache (`umrt_model_prefix_cache_set`), and the
   * prompts of `umrt_generate` begin with what is found there; `umrt_seq_reuse_prefix`
   * does so for `umrt_eval`. UNSUPPORTED for models with recurrent layers, whose
   * states belong to all tokens in front of them. Default: neither.
   */
  uint32_t prefix_cache;
  /**
   * What happens when tokens do not fit behind a sequence, `UMRT_OVERFLOW_*`.
   */
  uint32_t overflow;
  /**
   * With `UMRT_OVERFLOW_SHIFT`: how many tokens at the beginning of a sequence stay; a
   * few (4, say) keep a text coherent.
   */
  uint32_t n_keep;
  /**
   * Nonzero: how idle sequences are stored from memory pressure on
   * (`umrt_memory_pressure_notify`, `UMRT_TRIM_REDUCE_SEQUENCES`), one of `UMRT_KV_*` that
   * takes less memory than `kv_type`, before any go to disk. That is not lossless: it
   * costs the accuracy that such a `kv_type` does, from then on and until the sequence
   * is empty. What the context reserves is not less. On GPUs, and with MLX's operations,
   * UNSUPPORTED. Default: sequences stay as they are.
   */
  uint32_t pressure_kv_type;
  /**
   * As what activations are multiplied with quantized weights, `UMRT_ACTIVATIONS_*`.
   */
  uint32_t activations;
  uint32_t reserved;
} umrt_ctx_params;

/**
 * What a context is.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t n_ctx;
  uint32_t n_seq;
  uint32_t prefill_chunk;
  /**
   * Length of a row of logits.
   */
  uint32_t vocab_size;
  /**
   * Threads that compute on the CPU; 1 where MLX alone does, as on a GPU.
   */
  uint32_t n_threads;
  /**
   * Bytes that each token adds to a sequence's KV cache.
   */
  uint64_t kv_bytes_per_token;
} umrt_ctx_info;

/**
 * Counters since the context was made. A step in which each sequence gets one
 * token, perhaps with guesses behind it, counts as decoding, any other as prefill.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t n_prefill_tokens;
  uint64_t n_decode_tokens;
  /**
   * Successful calls of `umrt_eval`, those inside `umrt_generate` included.
   */
  uint64_t n_evals;
  /**
   * Nanoseconds.
   */
  uint64_t prefill_ns;
  /**
   * Nanoseconds.
   */
  uint64_t decode_ns;
  /**
   * How often a text began with what the prefix cache had.
   */
  uint64_t n_prefix_hits;
  /**
   * Tokens that were not evaluated because of it.
   */
  uint64_t n_prefix_tokens;
  /**
   * Tokens that sequences lost to make room (`UMRT_OVERFLOW_SHIFT`), or by
   * `umrt_seq_shift`.
   */
  uint64_t n_removed_tokens;
  /**
   * Tokens that were guessed by a draft model or looked up, and evaluated.
   */
  uint64_t n_drafted;
  /**
   * Of those, the ones that were right; the others do not count as decoded.
   */
  uint64_t n_accepted;
} umrt_perf;

/**
 * Tokens to append to sequences.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t n_tokens;
  /**
   * `n_tokens` token ids.
   */
  const int32_t *tokens;
  /**
   * The sequence of each token, or NULL: all belong to sequence 0.
   */
  const int32_t *seq_ids;
  /**
   * One byte per token, nonzero where logits are wanted; or NULL: after the
   * last token of each sequence.
   */
  const uint8_t *want_logits;
  /**
   * Milliseconds from the beginning of the call after which it ends with
   * DEADLINE_EXCEEDED, as if it was cancelled. 0: it has all the time it needs.
   */
  uint32_t deadline_ms;
  uint32_t reserved;
} umrt_batch;

/**
 * What an evaluation left.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * Rows of logits, in the order of their tokens in the batch.
   */
  uint32_t n_logits;
} umrt_eval_result;

/**
 * For `umrt_model_residency`.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_RESIDENCY_DROP_CACHE` or 0.
   */
  uint32_t flags;
  /**
   * Hears of bytes read while weights are brought in; may be NULL.
   */
  umrt_progress_fn progress;
  void *progress_userdata;
  /**
   * Stops the reading; may be NULL.
   */
  const umrt_cancel *cancel;
} umrt_residency_params;

/**
 * Which models give way when another needs room: models are released, those of
 * least priority first, among them the one unused for longest, until what models
 * and contexts hold fits into `usable_bytes`. It happens when a model is first
 * used, warmed, or read into private memory. A model that computes stays.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * 1: never gives way, be it to others, to memory pressure or to time.
   */
  uint32_t pinned;
  /**
   * Default: 0.
   */
  int32_t priority;
  /**
   * Unused for so many milliseconds the model is released. 0: never. umrt has
   * no clock of its own: it looks when any model computes, at most four times a
   * second, and in `umrt_memory_trim(UMRT_TRIM_TIMED_OUT_MODELS, NULL)`.
   */
  uint32_t idle_timeout_ms;
} umrt_model_policy;

/**
 * What is wrong with memory, if anything.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * The most urgent finding: one of `UMRT_FINDING_*`.
   */
  uint32_t finding;
  /**
   * All findings, each as the bit `1 << finding`.
   */
  uint32_t findings;
  /**
   * Milliseconds since the last diagnosis, which `major_faults` is counted over.
   */
  uint32_t window_ms;
  /**
   * Page faults that read from disk in that time.
   */
  uint64_t major_faults;
  /**
   * Private memory of the process in swap.
   */
  uint64_t swap_bytes;
  /**
   * What models and contexts hold in memory: private memory and mapped weights.
   */
  uint64_t held_bytes;
  /**
   * What they may use.
   */
  uint64_t usable_bytes;
  /**
   * Tokens of the context's longest sequence, and how many it may hold.
   */
  uint32_t n_tokens;
  uint32_t n_ctx;
  /**
   * What is the case, for people. Static.
   */
  const char *text;
  /**
   * What to do about it. Static.
   */
  const char *advice;
} umrt_memory_diagnosis;

/**
 * What a model and one context would take, in bytes, and what there is.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * 1 if `umrt_model_open` and `umrt_ctx_new` would succeed now, else 0.
   */
  uint32_t fits;
  /**
   * The context, defaults filled in: tokens of each sequence.
   */
  uint32_t n_ctx;
  /**
   * Sequences.
   */
  uint32_t n_seq;
  /**
   * The largest `n_ctx` that fits with as many sequences, at most what the model
   * was trained for or what was asked for; 0: none.
   */
  uint32_t max_n_ctx;
  /**
   * If it does not fit: how many sequences of `n_ctx` tokens would; 0: none.
   */
  uint32_t max_n_seq;
  /**
   * If it does not fit: with a KV cache of so many bits it would, 8 or 4; 0: no.
   */
  uint32_t fit_kv_bits;
  /**
   * If it does not fit: with weights of so many bits it would; 0: no.
   */
  uint32_t fit_weight_bits;
  /**
   * Weights that would be used where their file is mapped.
   */
  uint64_t weights_mapped_bytes;
  /**
   * Weights that would be copied out of their file.
   */
  uint64_t weights_copied_bytes;
  /**
   * Of all weights, those stored as float32.
   */
  uint64_t weights_float32_bytes;
  uint64_t weights_float16_bytes;
  uint64_t weights_bfloat16_bytes;
  /**
   * Codes of quantized weights; their scales are among the floats.
   */
  uint64_t weights_packed_bytes;
  uint64_t weights_other_bytes;
  /**
   * Keys and values of one token.
   */
  uint64_t kv_bytes_per_token;
  /**
   * Keys and values of all sequences when full, in whole blocks, and the states of
   * recurrent layers.
   */
  uint64_t kv_bytes;
  /**
   * Two rows for each sequence: the last ones, and those that replace them.
   */
  uint64_t logits_bytes;
  /**
   * Intermediate results of a step of `prefill_chunk` tokens.
   */
  uint64_t scratch_prefill_bytes;
  /**
   * Intermediate results of a step of one token for each sequence.
   */
  uint64_t scratch_decode_bytes;
  /**
   * Freed buffers that MLX keeps for the next step.
   */
  uint64_t mlx_cache_bytes;
  /**
   * Tokenizer, names and shapes, sequences.
   */
  uint64_t tables_bytes;
  /**
   * Weights, KV, logits, the larger scratch, freed buffers and tables.
   */
  uint64_t total_bytes;
  uint64_t physical_bytes;
  /**
   * What models may use of it.
   */
  uint64_t usable_bytes;
  /**
   * Of that, promised to open models and contexts.
   */
  uint64_t taken_bytes;
  /**
   * By how much it does not fit; 0: it does.
   */
  uint64_t missing_bytes;
  /**
   * What bounds `usable_bytes`, for people. Static.
   */
  const char *usable_reason;
  /**
   * Of `total_bytes`, what would be in the memory of a GPU that has its own.
   */
  uint64_t gpu_bytes;
  /**
   * What models may use of that memory; 0: there is none.
   */
  uint64_t gpu_usable_bytes;
} umrt_memory_estimate;

/**
 * A model and a machine in numbers, for `umrt_numbers_plan`.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t n_layers;
  uint32_t n_kv_heads;
  /**
   * Of keys and of values. For latent attention half of `umrt_model_info.head_dim`,
   * as its values take no memory of their own.
   */
  uint32_t head_dim;
  /**
   * Tokens of each sequence.
   */
  uint32_t n_ctx;
  /**
   * Sequences. 0: 1.
   */
  uint32_t n_seq;
  /**
   * Values in all weights.
   */
  uint64_t n_parameters;
  /**
   * Those that compute one token, fewer in mixtures of experts. 0: all.
   */
  uint64_t n_active_parameters;
  /**
   * 4.5 for 4-bit weights with scales and biases for groups of 64. 0: 16.
   */
  double bits_per_weight;
  /**
   * 0: 16.
   */
  double kv_bits;
  uint64_t memory_bytes;
  /**
   * The share of the memory that models may use. 0: 0.75.
   */
  double fraction;
  /**
   * What the machine reads per second, in units of 10^9 bytes. 0: unknown.
   */
  double gigabytes_per_second;
} umrt_numbers;

/**
 * What follows from a model and a machine in numbers.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * 1 if weights and KV cache fit into the usable memory, else 0.
   */
  uint32_t fits;
  /**
   * The largest `n_ctx` that fits with as many sequences; 0: none.
   */
  uint32_t max_n_ctx;
  uint32_t reserved;
  /**
   * Parameters times bits, over 8.
   */
  uint64_t weight_bytes;
  uint64_t kv_bytes_per_token;
  /**
   * Of all sequences when full, in whole blocks of 256 tokens.
   */
  uint64_t kv_bytes;
  /**
   * Weights and KV.
   */
  uint64_t total_bytes;
  uint64_t usable_bytes;
  /**
   * At most, with an empty cache: the bandwidth over the active weights.
   */
  double tokens_per_second;
  /**
   * At most, with one sequence of `n_ctx` tokens.
   */
  double tokens_per_second_full;
} umrt_numbers_result;

/**
 * How much models may use, for `umrt_memory_budget_set`.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  /**
   * The share of physical memory, above 0 and at most 1. 0: 0.75, unless `bytes`
   * says it.
   */
  double fraction;
  /**
   * Instead of a share. Never more than physical memory. 0: as `fraction` says.
   */
  uint64_t bytes;
} umrt_memory_budget;

/**
 * The budget and what is promised of it, in bytes.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t physical_bytes;
  /**
   * What models may use of it.
   */
  uint64_t usable_bytes;
  /**
   * All that is promised: mapped weights, private memory, scratch memory and
   * freed buffers.
   */
  uint64_t taken_bytes;
  /**
   * Mapped weights of models that take turns. The largest model's count.
   */
  uint64_t mapped_bytes;
  /**
   * Mapped weights of pinned models.
   */
  uint64_t pinned_bytes;
  /**
   * Mapped weights of models opened with UMRT_MODEL_ALLOW_PAGING; not counted.
   */
  uint64_t paged_bytes;
  /**
   * Full KV caches, logits, copied weights and tables.
   */
  uint64_t private_bytes;
  /**
   * The largest step of each context.
   */
  uint64_t scratch_bytes;
  /**
   * Freed buffers that MLX may keep.
   */
  uint64_t mlx_cache_bytes;
  /**
   * What bounds `usable_bytes`, for people. Static.
   */
  const char *usable_reason;
} umrt_memory_budget_info;

/**
 * For `umrt_model_quantize`.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_QUANTIZE_AFFINE` or another.
   */
  uint32_t mode;
  /**
   * 0: 4, and 8 with UMRT_QUANTIZE_MXFP8.
   */
  uint32_t bits;
  /**
   * 0: 64, 32 with MXFP4 and MXFP8, 16 with NVFP4.
   */
  uint32_t group_size;
  /**
   * `UMRT_RECIPE_NONE` or another, which chooses the bits of affine weights.
   */
  uint32_t recipe;
  /**
   * Of what stays floats: scales, biases, norms. `UMRT_DTYPE_KEPT` or another.
   */
  uint32_t dtype;
  /**
   * `UMRT_QUANTIZE_REPLACE` or 0.
   */
  uint32_t flags;
  /**
   * 0: as many as suit the machine.
   */
  uint32_t n_threads;
  /**
   * Of a file of weights at most, unless a tensor is larger. 0: 5 GiB.
   */
  uint64_t max_shard_bytes;
  /**
   * Called with bytes of the source; may be NULL.
   */
  umrt_progress_fn progress;
  void *progress_userdata;
  /**
   * Stops it; may be NULL.
   */
  const umrt_cancel *cancel;
} umrt_quantize_params;

/**
 * How to choose. 0 means off; all zero is greedy decoding. The stages come in
 * the order of the fields: penalties, temperature, top-k, top-p, min-p.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * How many of the last tokens the penalties look at, up to 2^20.
   */
  uint32_t repetition_window;
  /**
   * Divides positive and multiplies negative logits of tokens in the window:
   * 0 to 100; 1 is off too.
   */
  float repetition_penalty;
  /**
   * Subtracted from the logit of a token in the window: -100 to 100.
   */
  float presence_penalty;
  /**
   * Subtracted for each time that a token is in the window: -100 to 100.
   */
  float frequency_penalty;
  /**
   * Divides the logits: 0 to 100. 0 takes the most likely token.
   */
  float temperature;
  /**
   * Keeps this many of the most likely tokens.
   */
  uint32_t top_k;
  /**
   * Keeps the most likely tokens that add up to this probability: 0 to 1.
   */
  float top_p;
  /**
   * Drops tokens less likely than this times the most likely: 0 to 1.
   */
  float min_p;
  uint32_t reserved;
  /**
   * The same seed gives the same tokens, on every machine.
   */
  uint64_t seed;
} umrt_sampler_params;

/**
 * What to generate. Exactly one of `prompt`, `chat` and `tokens` is given.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * 0: until the model ends the text or the context is full.
   */
  uint32_t max_tokens;
  /**
   * The sequence that the prompt and what follows are appended to. For requests
   * beside others: only with `UMRT_GENERATE_IN_SEQ`, otherwise 0.
   */
  int32_t seq;
  /**
   * `UMRT_GENERATE_*`, or 0.
   */
  uint32_t flags;
  /**
   * Plain text, NUL-terminated UTF-8. Special tokens spelled out in it are
   * ordinary characters.
   */
  const char *prompt;
  /**
   * A conversation for the model's chat template, NUL-terminated JSON: see
   * `umrt_chat_render`.
   */
  const char *chat;
  /**
   * `n_tokens` token ids.
   */
  const int32_t *tokens;
  size_t n_tokens;
  /**
   * `n_stop` NUL-terminated texts that end the generation; they are not part
   * of the output.
   */
  const char *const *stop;
  size_t n_stop;
  /**
   * How to choose tokens; NULL is greedy. Not used if `sampler` is given.
   */
  const umrt_sampler_params *sampling;
  /**
   * Goes on with this sampler; may be NULL.
   */
  umrt_sampler *sampler;
  /**
   * A context of a smaller model with the same vocabulary, which guesses tokens that
   * are then checked several at once; NULL: none. The call uses it, too, and its
   * sequence `seq` becomes that of this context: it needs one.
   */
  umrt_ctx *draft;
  /**
   * Tokens guessed at a time, at most `UMRT_MAX_DRAFT`; how many are tried follows
   * from how often they are right. 0: `UMRT_MAX_DRAFT`.
   */
  uint32_t n_draft;
  /**
   * Guesses what followed the same last tokens earlier in the sequence: this many of
   * them if they are there, 2 at least. 0: does not; 3 or 4 suit most texts.
   */
  uint32_t ngram;
  /**
   * Milliseconds from the beginning of the call, of a request from handing it in,
   * after which it ends with DEADLINE_EXCEEDED, as if it was cancelled: all finished
   * tokens stay. 0: it has all the time it needs.
   */
  uint32_t deadline_ms;
  /**
   * Where tokens are chosen. `UMRT_DEVICE_AUTO`: on the GPU where the model computes
   * there, but for penalties, guesses and constraints; `UMRT_DEVICE_CPU`: always on the
   * CPU; `UMRT_DEVICE_GPU`: on the GPU, UNSUPPORTED if the model computes on the CPU or
   * for penalties, guesses and constraints. The tokens are the same: at temperature 0
   * exactly, above unless a draw is within 2e-6 of the probability that decides between
   * two. `UMRT_CPU_OPS_STOCK`, which are the operations of GPUs, count as a GPU.
   */
  uint32_t sampling_device;
  /**
   * What the text may be, from its first token on; NULL: anything. It ends where the
   * constraint's text does, so not with `UMRT_GENERATE_IGNORE_END`. It may be freed
   * after the call that it was given to.
   */
  const umrt_constraint *constraint;
} umrt_generate_params;

/**
 * Receives text as soon as it is certain: whole UTF-8 characters, never empty,
 * NUL-terminated, `length` bytes without the NUL, valid during the call. `token`
 * is the token that completed it. Return 0 to go on, anything else to stop.
 * Called on the thread of the call that generates.
 */
typedef int32_t (*umrt_text_fn)(const char *text,
                                size_t length,
                                int32_t token,
                                void *userdata);

/**
 * What a generation did.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_STOP_*`
   */
  uint32_t stop_reason;
  uint32_t n_prompt_tokens;
  /**
   * Tokens that were sampled, the one that ended the text included.
   */
  uint32_t n_tokens;
  /**
   * Nanoseconds from the first prompt token to the first logits.
   */
  uint64_t prompt_ns;
  /**
   * Nanoseconds from there to the end.
   */
  uint64_t decode_ns;
  /**
   * Tokens that were guessed.
   */
  uint32_t n_drafted;
  /**
   * Of those, the ones that were right.
   */
  uint32_t n_accepted;
} umrt_generate_result;

/**
 * For `umrt_scheduler_new`. 0 means the default.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * Tokens of a step at most, unless more requests decode. Fewer make steps, and
   * so the pauses between tokens, shorter while prompts are read, and reading
   * slower. Default, and at most: the context's `prefill_chunk`.
   */
  uint32_t step_tokens;
} umrt_scheduler_params;

/**
 * What became of a request.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_OK`, or what ended the request.
   */
  umrt_status status;
  /**
   * 0 if it was refused at once.
   */
  uint64_t id;
  /**
   * `UMRT_STOP_*`; 0 if `status` is not `UMRT_OK`.
   */
  uint32_t stop_reason;
  uint32_t n_prompt_tokens;
  /**
   * Tokens that were sampled, the one that ended the text included.
   */
  uint32_t n_tokens;
  /**
   * Tokens that were guessed.
   */
  uint32_t n_drafted;
  /**
   * Of those, the ones that were right.
   */
  uint32_t n_accepted;
  uint32_t reserved;
  /**
   * Nanoseconds that it waited for a sequence.
   */
  uint64_t queue_ns;
  /**
   * Nanoseconds from handing it in to its first token.
   */
  uint64_t first_token_ns;
  /**
   * Nanoseconds from getting its sequence to its first token.
   */
  uint64_t prompt_ns;
  /**
   * Nanoseconds from there to the end.
   */
  uint64_t decode_ns;
  /**
   * What ended it, as a sentence; empty if `status` is `UMRT_OK`.
   */
  char message[256];
} umrt_request_result;

/**
 * Receives the result of a request that ended, valid during the call. Called on the
 * thread that called `umrt_scheduler_step`.
 */
typedef void (*umrt_finished_fn)(const umrt_request_result *result, void *userdata);

/**
 * A generation beside others.
 */
typedef struct {
  uint32_t struct_size;
  uint32_t reserved;
  /**
   * What to generate; nothing of it is used after the call but `sampler`, which is
   * kept until the end. Each request has its own sampler, if any.
   *
   * The request takes a sequence that holds no tokens, and empties it when it
   * ends; sequences that hold tokens are left alone. With `UMRT_GENERATE_IN_SEQ`
   * it goes on with a sequence of the caller's and leaves its tokens there.
   */
  const umrt_generate_params *params;
  /**
   * Receives text; may be NULL. It runs inside of a step: it must not use the
   * context or step (it would get BUSY), but may submit and cancel.
   */
  umrt_text_fn callback;
  /**
   * Receives the result, under the same rules. NULL: it is kept for
   * `umrt_scheduler_result`.
   */
  umrt_finished_fn finished;
  /**
   * For both.
   */
  void *userdata;
  /**
   * Ends the request at the next step, as `deadline_ms` of `params` does; may be NULL.
   */
  const umrt_cancel *cancel;
} umrt_request;

/**
 * What a step did, and what is left.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * Requests that have not ended; 0: there is nothing to do.
   */
  uint32_t n_active;
  /**
   * Those that have a sequence.
   */
  uint32_t n_running;
  /**
   * Those that wait for one.
   */
  uint32_t n_waiting;
  /**
   * Tokens of prompts in this step.
   */
  uint32_t n_prompt_tokens;
  /**
   * Tokens that requests decoded in this step: one each, and guesses that were right.
   */
  uint32_t n_decode_tokens;
  /**
   * Tokens that were guessed and evaluated in this step.
   */
  uint32_t n_drafted;
} umrt_step_result;

/**
 * For `umrt_embed`. Exactly one of `texts` and `tokens` is given.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * `UMRT_POOLING_*`
   */
  uint32_t pooling;
  /**
   * `UMRT_EMBED_*`, or 0.
   */
  uint32_t flags;
  uint32_t reserved;
  /**
   * `n_texts` NUL-terminated UTF-8 texts, encoded with what the tokenizer puts
   * around a text.
   */
  const char *const *texts;
  /**
   * The token ids of all texts, one text after the other.
   */
  const int32_t *tokens;
  /**
   * How many tokens each of the `n_texts` has; for `tokens` only.
   */
  const size_t *lengths;
  size_t n_texts;
} umrt_embed_params;

/**
 * For `umrt_score`.
 */
typedef struct {
  uint32_t struct_size;
  /**
   * The sequence whose tokens come in front of the prompt.
   */
  int32_t seq;
  /**
   * `n_prompt` token ids, at least one.
   */
  const int32_t *prompt;
  size_t n_prompt;
  /**
   * The token ids of all continuations, one continuation after the other.
   */
  const int32_t *continuations;
  /**
   * How many tokens each of the `n_continuations` has, at least one.
   */
  const size_t *lengths;
  size_t n_continuations;
} umrt_score_params;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What went wrong in this thread's last failed call: one sentence that says
 * what happened, where, and what to do. Empty if nothing failed yet. Never
 * NULL; valid until the thread's next failure. Any thread.
 */
const char *umrt_last_error(void);

/**
 * The name of a status, such as "NO_SPACE"; "UNKNOWN" for other numbers. Static.
 */
const char *umrt_status_name(umrt_status status);

/**
 * The ABI of the library that was loaded; compare with `UMRT_ABI_VERSION`.
 */
uint32_t umrt_abi_version(void);

/**
 * The version of the library that was loaded, such as "0.1.0". Static.
 */
const char *umrt_version(void);

/**
 * Starts the library and checks that MLX can be used. Optional: every other
 * function does so by itself. May be called again to change the parameters.
 *
 * - `params`: NULL for defaults.
 *
 * Returns INVALID_ARGUMENT, BACKEND. Any thread.
 */
umrt_status umrt_init(const umrt_init_params *params);

/**
 * Stores the number of devices: the CPU, and the GPUs that MLX has.
 *
 * Returns INVALID_ARGUMENT. Any thread.
 */
umrt_status umrt_device_count(size_t *count);

/**
 * Describes device `index`, from 0 to the count less one. Device 0 is the CPU.
 *
 * Returns INVALID_ARGUMENT, BACKEND. Any thread.
 */
umrt_status umrt_device_info_get(size_t index, umrt_device_info *info);

/**
 * Sends log messages up to `level` to `callback`; NULL turns them off, which is
 * the default. umrt never writes to stdout or stderr itself. A message that is
 * on its way when this returns may still arrive at the former callback.
 *
 * Any thread.
 */
void umrt_log_set(umrt_log_fn callback, void *userdata, int32_t level);

/**
 * Fills in what the whole process uses memory for. Costs a walk over the page
 * tables of the mapped files: about 1 ms per 1.5 GB in small pages, and a tenth of
 * that in large ones. Figures that change meanwhile need not fit together.
 *
 * Returns INVALID_ARGUMENT, IO, BACKEND. Any thread.
 */
umrt_status umrt_memory_stats(umrt_memory_info *stats);

/**
 * Gives memory back to the system without losing anything, but for
 * `UMRT_TRIM_REDUCE_SEQUENCES`: sequences go on with the same tokens.
 *
 * - `flags`: `UMRT_TRIM_*`; 0 means `UMRT_TRIM_MLX_CACHE | UMRT_TRIM_PREFIX_CACHES |
 *   UMRT_TRIM_IDLE_MODELS`.
 * - `result`: receives what was given back; may be NULL.
 *
 * Returns INVALID_ARGUMENT (`UMRT_TRIM_IDLE_SEQUENCES` without a directory),
 * UNSUPPORTED (unknown flags), IO, BACKEND. Any thread.
 */
umrt_status umrt_memory_trim(uint32_t flags, umrt_trim_result *result);

/**
 * Allows umrt to write keys and values of idle sequences to disk when memory is short
 * or `UMRT_TRIM_IDLE_SEQUENCES` asks for it. They come back when they are used next, with
 * the same contents, and what their contexts reserved stays reserved for them.
 *
 * - `directory`: where; its files have no names, so that nothing is left behind however
 *   the process ends. NULL ends it; what is on disk stays there until it is used.
 * - `max_bytes`: what all of them may take together. Sequences that do not fit stay in
 *   memory.
 *
 * What is written is the text in another form: choose a directory that is as private.
 * Returns NOT_FOUND (no such directory). Any thread.
 */
umrt_status umrt_memory_spill_set(const char *directory, uint64_t max_bytes);

/**
 * Sets who hears of memory pressure, after umrt has acted on it: from a warning on
 * it gives back what `umrt_memory_trim(0, NULL)` does, stores idle sequences as their
 * contexts' `pressure_kv_type` says and, if that gave nothing back or the level is critical,
 * moves them to the directory of `umrt_memory_spill_set`; while it is critical
 * `umrt_model_open` and `umrt_ctx_new` return OVER_BUDGET (for 30 seconds after the
 * last critical notice at most). Sequences that are there go on.
 *
 * - `callback`: called on the thread that notices: that of
 *   `umrt_memory_pressure_notify`, or umrt's own. It may call umrt. NULL ends it.
 * - `flags`: `UMRT_PRESSURE_WATCH` to hear of the system's own reports (Linux:
 *   pressure stall information of the machine and the control group, for which a
 *   thread sleeps until there is another callback or none; Apple: libdispatch's
 *   memory pressure). Without it only `umrt_memory_pressure_notify` notices
 *   anything.
 *
 * When this returns, the former callback is not called by the watch any more.
 *
 * Returns UNSUPPORTED (unknown flags, or the system has no reports to watch;
 * nothing was changed). Any thread.
 */
umrt_status umrt_memory_pressure_callback(umrt_pressure_fn callback,
                                          void *userdata,
                                          uint32_t flags);

/**
 * Acts on memory pressure as described at `umrt_memory_pressure_callback` and
 * tells the callback, if there is one. For hosts that know of it themselves (the
 * delegate of an iOS application, say), and for tests.
 *
 * - `level`: `UMRT_PRESSURE_NORMAL`, `_WARNING` or `_CRITICAL`.
 * - `result`: receives what was given back; may be NULL.
 *
 * Returns INVALID_ARGUMENT (no such level), IO, BACKEND. Any thread.
 */
umrt_status umrt_memory_pressure_notify(uint32_t level, umrt_trim_result *result);

/**
 * Makes a flag, not triggered. Free it with `umrt_cancel_free`.
 *
 * Returns INVALID_ARGUMENT. Any thread.
 */
umrt_status umrt_cancel_new(umrt_cancel **cancel);

/**
 * Stops every call that was given this flag, and those that will be, until it
 * is reset. They return CANCELLED. NULL is ignored. Any thread, and from signal
 * handlers.
 */
void umrt_cancel_trigger(const umrt_cancel *cancel);

/**
 * Lets the flag be used again. NULL is ignored. Any thread.
 */
void umrt_cancel_reset(const umrt_cancel *cancel);

/**
 * Frees the flag; calls that use it go on. NULL is ignored. Any thread.
 */
void umrt_cancel_free(umrt_cancel *cancel);

/**
 * Reads what a checkpoint is from its headers; no weight is touched.
 *
 * - `path`: a directory with config.json and safetensors files, or a GGUF file.
 *
 * Returns INVALID_ARGUMENT, NOT_FOUND, IO, FORMAT, UNSUPPORTED (names what).
 * Any thread.
 */
umrt_status umrt_model_inspect(const char *path, umrt_model_info *info);

/**
 * Opens a checkpoint by mapping it: the weights are not read before they are
 * used, and are not copied (see `weights_copied_bytes`). For a GPU that has memory of
 * its own they are read once and copied there (`gpu_bytes`).
 *
 * - `path`: a directory with config.json and safetensors files, or a GGUF file.
 * - `params`: NULL for defaults.
 * - `model`: receives the handle. Free it with `umrt_model_free`.
 *
 * Mapped files must not be changed while they are open: a file that another
 * process shortens ends this one with SIGBUS when the missing part is read. It is
 * looked for four times a second while the model computes, and then is a status;
 * only `UMRT_LOAD_READ` and `UMRT_LOAD_DIRECT` make it harmless.
 *
 * Returns INVALID_ARGUMENT (no GPU of this index), NOT_FOUND, IO, FORMAT (what is
 * wrong in which file), UNSUPPORTED (names what; or why there is no GPU), OVER_BUDGET
 * (the weights exceed what models may use;
 * the message says by how much; or memory pressure is critical), CANCELLED,
 * OUT_OF_MEMORY, BACKEND. Any thread.
 */
umrt_status umrt_model_open(const char *path,
                            const umrt_model_params *params,
                            umrt_model **model);

/**
 * Describes an opened model.
 *
 * Returns INVALID_ARGUMENT. Any thread.
 */
umrt_status umrt_model_info_get(const umrt_model *model, umrt_model_info *info);

/**
 * Looks up a value of the checkpoint's config.json.
 *
 * - `key`: a name, or a path of names with dots: "rope_scaling.factor".
 * - `buffer`, `capacity`: receives NUL-terminated text: a string as it is,
 *   anything else as JSON.
 * - `needed`: receives the capacity it takes, the NUL included; may be NULL.
 *
 * Returns INVALID_ARGUMENT, NOT_FOUND (no such key), NO_SPACE (nothing was
 * written but `needed`). Any thread.
 */
umrt_status umrt_model_metadata(const umrt_model *model,
                                const char *key,
                                char *buffer,
                                size_t capacity,
                                size_t *needed);

/**
 * Fills in the model's own memory: the `weights_*` fields and `text_bytes`.
 *
 * Returns INVALID_ARGUMENT, IO. Any thread.
 */
umrt_status umrt_model_memory_stats(const umrt_model *model, umrt_memory_info *memory);

/**
 * Gives the model back. It stays open until its contexts and other handles
 * made from it are freed as well. NULL is ignored. Any thread.
 */
void umrt_model_free(umrt_model *model);

/**
 * Splits text into tokens.
 *
 * - `text`, `length`: UTF-8, `length` bytes.
 * - `flags`: `UMRT_TOKENIZE_*`, or 0.
 * - `buffer`, `capacity`: receives token ids.
 * - `needed`: receives the number of tokens; may be NULL.
 *
 * Returns INVALID_ARGUMENT (not UTF-8), NOT_FOUND (no tokenizer), FORMAT (it is
 * broken), NO_SPACE (nothing was written but `needed`). Any thread.
 */
umrt_status umrt_tokenize(const umrt_model *model,
                          const char *text,
                          size_t length,
                          uint32_t flags,
                          int32_t *buffer,
                          size_t capacity,
                          size_t *needed);

/**
 * Joins tokens to text. Bytes that are not UTF-8 become U+FFFD.
 *
 * - `tokens`, `n_tokens`: token ids.
 * - `flags`: `UMRT_DETOKENIZE_*`, or 0.
 * - `buffer`, `capacity`: receives NUL-terminated text.
 * - `needed`: receives the capacity it takes, the NUL included; may be NULL.
 *
 * Returns INVALID_ARGUMENT (an id out of range), NOT_FOUND (no tokenizer),
 * FORMAT (it is broken), NO_SPACE (nothing was written but `needed`). Any thread.
 */
umrt_status umrt_detokenize(const umrt_model *model,
                            const int32_t *tokens,
                            size_t n_tokens,
                            uint32_t flags,
                            char *buffer,
                            size_t capacity,
                            size_t *needed);

/**
 * Describes one token.
 *
 * Returns INVALID_ARGUMENT (no such token), NOT_FOUND (no tokenizer), FORMAT (it
 * is broken). Any thread.
 */
umrt_status umrt_token_info_get(const umrt_model *model,
                                int32_t token,
                                umrt_token_info *info);

/**
 * Stores the id of a token with a role, such as `UMRT_SPECIAL_BOS`.
 *
 * Returns INVALID_ARGUMENT (no such role), NOT_FOUND (no tokenizer, or the model
 * has no such token), FORMAT (the tokenizer is broken). Any thread.
 */
umrt_status umrt_special_token(const umrt_model *model, int32_t kind, int32_t *token);

/**
 * Renders a conversation as the prompt that the model was trained on. Tokenize
 * it with `UMRT_TOKENIZE_PARSE_SPECIAL` alone.
 *
 * - `json`, `length`: an object with "messages" (each with "role" and "content")
 *   and optionally "tools", "add_generation_prompt" (default true) and whatever
 *   else the model's template understands.
 * - `buffer`, `capacity`: receives NUL-terminated text.
 * - `needed`: receives the capacity it takes, the NUL included; may be NULL.
 *
 * Returns INVALID_ARGUMENT (malformed JSON, or the template refuses the
 * conversation and says why), NOT_FOUND (the model has no template), FORMAT (the
 * template is broken), NO_SPACE (nothing was written but `needed`). Any thread.
 */
umrt_status umrt_chat_render(const umrt_model *model,
                             const char *json,
                             size_t length,
                             char *buffer,
                             size_t capacity,
                             size_t *needed);

/**
 * Makes a stream of text without special tokens.
 *
 * - `detok`: receives the handle. Free it with `umrt_detok_free`.
 *
 * Returns INVALID_ARGUMENT, NOT_FOUND (no tokenizer), FORMAT (it is broken). Any
 * thread.
 */
umrt_status umrt_detok_new(const umrt_model *model, umrt_detok **detok);

/**
 * Adds a token and stores the text that became certain: whole UTF-8 characters,
 * often none.
 *
 * - `text`, `length`: NUL-terminated, `length` bytes without the NUL; valid
 *   until the next call with this handle. Each may be NULL.
 *
 * Returns INVALID_ARGUMENT (an id out of range), BUSY. Any thread.
 */
umrt_status umrt_detok_push(umrt_detok *detok,
                            int32_t token,
                            const char **text,
                            size_t *length);

/**
 * Stores the rest of the text, with U+FFFD for an incomplete character, and
 * begins a new one. Otherwise as `umrt_detok_push`.
 */
umrt_status umrt_detok_finish(umrt_detok *detok, const char **text, size_t *length);

/**
 * Frees the stream. NULL is ignored. Any thread.
 */
void umrt_detok_free(umrt_detok *detok);

/**
 * Makes a context. KV memory is taken as sequences grow, never beyond `n_ctx`; all
 * that full sequences and the largest step need is reserved here, so that later
 * calls find it.
 *
 * - `params`: NULL for defaults.
 * - `ctx`: receives the handle. Free it with `umrt_ctx_free`.
 *
 * Returns INVALID_ARGUMENT (`n_threads` above 1024, an unknown `kv_type`, a
 * `pressure_kv_type` that takes no less memory), UNSUPPORTED (one of both whose groups the
 * model's heads do not divide into; `pressure_kv_type` and `activations` with MLX's
 * operations; `prefix_cache` and `UMRT_OVERFLOW_SHIFT` with recurrent layers),
 * OVER_BUDGET (full sequences would take more than is left; the message says how
 * much is missing and what would fit), BACKEND. Any thread.
 */
umrt_status umrt_ctx_new(const umrt_model *model,
                         const umrt_ctx_params *params,
                         umrt_ctx **ctx);

/**
 * Gives the context and its KV caches back; if a call is using it, when that
 * call ends. NULL is ignored. Any thread.
 */
void umrt_ctx_free(umrt_ctx *ctx);

/**
 * Describes a context.
 *
 * Returns INVALID_ARGUMENT, BUSY. Any thread.
 */
umrt_status umrt_ctx_info_get(const umrt_ctx *ctx, umrt_ctx_info *info);

/**
 * Fills in the context's counters.
 *
 * Returns INVALID_ARGUMENT, BUSY. Any thread.
 */
umrt_status umrt_ctx_perf(const umrt_ctx *ctx, umrt_perf *perf);

/**
 * Fills in the context's own memory: the `kv_*` and `logits_bytes` fields, and
 * `total_bytes`, their sum.
 *
 * Returns INVALID_ARGUMENT, BUSY. Any thread.
 */
umrt_status umrt_ctx_memory_stats(const umrt_ctx *ctx, umrt_memory_info *memory);

/**
 * Fills in one sequence's own memory: `kv_reserved_bytes`, `kv_used_bytes` and
 * `total_bytes`. What it shares with other sequences is included.
 *
 * Returns INVALID_ARGUMENT (no such sequence), BUSY. Any thread.
 */
umrt_status umrt_seq_memory_stats(const umrt_ctx *ctx,
                                  int32_t seq,
                                  umrt_memory_info *memory);

/**
 * Stores how many tokens a sequence holds.
 *
 * Returns INVALID_ARGUMENT, BUSY. Any thread.
 */
umrt_status umrt_seq_length(const umrt_ctx *ctx, int32_t seq, uint32_t *n_tokens);

/**
 * Makes sequence `to` hold the same tokens as sequence `from`, in place of its own.
 * It takes no time and no memory: what both hold is shared until one of them
 * changes it.
 *
 * Returns INVALID_ARGUMENT (no such sequence), BUSY. Any thread.
 */
umrt_status umrt_seq_fork(umrt_ctx *ctx, int32_t from, int32_t to);

/**
 * Keeps the first `keep` tokens of a sequence and forgets the rest. Memory for 256
 * tokens is given back where none of them is left; with 0 all of it.
 *
 * Models with recurrent layers (`lfm2`) keep states instead of keys and values there,
 * and those of earlier tokens are gone: their sequences can be cut to 0, to all that
 * they hold, and to what they held in front of the last evaluation, as long as they are
 * in memory. Fork or save them where you may want to come back to.
 *
 * Returns INVALID_ARGUMENT (no such sequence, or it holds fewer), UNSUPPORTED (a place
 * without states; nothing has changed), BUSY. Any thread.
 */
umrt_status umrt_seq_trim(umrt_ctx *ctx, int32_t seq, uint32_t keep);

/**
 * Evaluates tokens: appends them to their sequences and computes the wanted
 * logits, which stay until the next successful evaluation.
 *
 * - `batch`: what to evaluate.
 * - `cancel`: stops it, within milliseconds on a CPU, between layers where MLX's
 *   operations compute (`UMRT_CPU_OPS_STOCK`) and between chunks of the prompt on a
 *   GPU; may be NULL. So does `deadline_ms` of the batch.
 * - `result`: may be NULL.
 *
 * If it fails or is stopped, sequences and logits are as before. (Only when
 * MLX itself fails in the middle of a step, BACKEND, can a sequence be lost;
 * the message says so, and the sequence is empty.)
 *
 * Returns INVALID_ARGUMENT (a token or sequence id out of range), NO_SPACE (a
 * sequence would exceed `n_ctx`), OVER_BUDGET (too many logits at once), BUSY,
 * CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, BACKEND. Any thread.
 */
umrt_status umrt_eval(umrt_ctx *ctx,
                      const umrt_batch *batch,
                      const umrt_cancel *cancel,
                      umrt_eval_result *result);

/**
 * Copies one row of the last evaluation's logits.
 *
 * - `row`: from 0 to `n_logits` less one.
 * - `buffer`, `capacity`: receives `vocab_size` floats.
 * - `needed`: receives `vocab_size`; may be NULL.
 *
 * Returns INVALID_ARGUMENT (no such row), NO_SPACE, BUSY. Any thread.
 */
umrt_status umrt_logits(const umrt_ctx *ctx,
                        size_t row,
                        float *buffer,
                        size_t capacity,
                        size_t *needed);

/**
 * Stores where one row of the last evaluation's logits lies: `vocab_size`
 * floats, valid until the next evaluation or the end of the context.
 *
 * Returns INVALID_ARGUMENT (no such row), BUSY. Any thread.
 */
umrt_status umrt_logits_view(const umrt_ctx *ctx, size_t row, const float **logits);

/**
 * Writes a sequence to a file: its tokens, and keys and values as they are stored,
 * so that it goes on with the same logits after `umrt_seq_load`. A file that is
 * there already is replaced as a whole: should the disk be full or the process be
 * killed, the former one is still there (and perhaps a hidden one beside it whose
 * name ends in `.tmp`).
 *
 * - `path`: NUL-terminated, in a directory that exists.
 *
 * The logits of the last evaluation are not saved. Returns INVALID_ARGUMENT (no
 * such sequence), NOT_FOUND (no such directory), IO (the disk is full, for
 * instance), OUT_OF_MEMORY, BUSY. Any thread.
 */
umrt_status umrt_seq_save(const umrt_ctx *ctx, int32_t seq, const char *path);

/**
 * Replaces what a sequence holds by what `umrt_seq_save` wrote, with any `n_ctx`
 * that it fits into, `n_threads` and so on, but the same model and `kv_type`. What was
 * saved after it was stored as `pressure_kv_type` says takes a context that has this as
 * either. All of it is read and checked first: if anything fails, the sequence is as
 * before.
 *
 * Returns INVALID_ARGUMENT (no such sequence; saved with another model or
 * `kv_type`), NOT_FOUND, IO, FORMAT (cut off, damaged, or another kind of file),
 * UNSUPPORTED (saved by a newer version), NO_SPACE (more than `n_ctx` tokens),
 * OVER_BUDGET (the context has no room for the former and the new content at once:
 * trim the sequence first), OUT_OF_MEMORY, BUSY. Any thread.
 */
umrt_status umrt_seq_load(umrt_ctx *ctx, int32_t seq, const char *path);

/**
 * As `umrt_seq_save`, into memory.
 *
 * - `buffer`, `capacity`: receives the bytes; NULL and 0 to ask how many there are.
 * - `needed`: receives how many there are; may be NULL.
 *
 * Returns INVALID_ARGUMENT (no such sequence), NO_SPACE (nothing was written),
 * OUT_OF_MEMORY, BUSY. Any thread.
 */
umrt_status umrt_seq_save_to_buffer(const umrt_ctx *ctx,
                                    int32_t seq,
                                    uint8_t *buffer,
                                    size_t capacity,
                                    size_t *needed);

/**
 * As `umrt_seq_load`, from what `umrt_seq_save_to_buffer` wrote.
 *
 * Returns as `umrt_seq_load` does, but for NOT_FOUND and IO. Any thread.
 */
umrt_status umrt_seq_load_from_buffer(umrt_ctx *ctx,
                                      int32_t seq,
                                      const uint8_t *buffer,
                                      size_t length);

/**
 * Replaces what a sequence holds by a prompt cache that mlx-lm saved
 * (`save_prompt_cache`), of its installed layout or the older one. The file says neither
 * which model nor, but where umrt wrote it, which tokens these were: that is up to the
 * caller. Everything else is checked first: if anything fails, the sequence is as before.
 *
 * - `tokens`, `n_tokens`: the ids of all tokens that mlx-lm had evaluated; NULL and 0:
 *   those that `umrt_seq_export_mlx` wrote into the file, which `umrt_seq_load` reads too.
 *
 * `KVCache` and `QuantizedKVCache` are read, by a context whose `kv_type` (or
 * `pressure_kv_type`) stores numbers in the same way. Returns INVALID_ARGUMENT (no such
 * sequence, other tokens than the file has, another model or type), UNSUPPORTED (another
 * kind of cache, several sequences, latent attention, recurrent layers), and as `umrt_seq_load` does. Any
 * thread.
 */
umrt_status umrt_seq_import_mlx(umrt_ctx *ctx,
                                int32_t seq,
                                const char *path,
                                const int32_t *tokens,
                                size_t n_tokens);

/**
 * Writes a sequence as mlx-lm's `save_prompt_cache` would, with the tokens' ids among the
 * metadata, for its `load_prompt_cache` and for `umrt_seq_load`. There are no checksums in
 * such files, and nothing says which model it was; `umrt_seq_save` is better for umrt
 * itself. Takes the sequence's memory once more for a moment.
 *
 * Returns UNSUPPORTED (latent attention, recurrent layers), and as `umrt_seq_save` does. Any thread.
 */
umrt_status umrt_seq_export_mlx(const umrt_ctx *ctx,
                                int32_t seq,
                                const char *path);

/**
 * Copies the ids of the tokens that a sequence holds.
 *
 * - `tokens`, `capacity`: receives the ids.
 * - `needed`: receives how many there are; may be NULL.
 *
 * Returns INVALID_ARGUMENT (no such sequence), NO_SPACE, BUSY. Any thread.
 */
umrt_status umrt_seq_tokens(const umrt_ctx *ctx,
                            int32_t seq,
                            int32_t *tokens,
                            size_t capacity,
                            size_t *needed);

/**
 * Sets how many bytes a model's prefix cache may hold beside sequences: keys and
 * values of texts that were evaluated, for others that begin alike. Contexts use it
 * whose `umrt_ctx_params.prefix_cache` says so.
 *
 * - `max_bytes`: 0 empties it and keeps nothing. Before the first call it is an
 *   eighth of what models may use.
 *
 * What is held is reserved for nobody: it is given back, what was unused for longest
 * first, as soon as a model or context reserves the memory, and under memory pressure
 * (`umrt_memory_info.prefix_cache_bytes` says how much it is). What sequences hold as
 * well takes nothing.
 *
 * Returns INVALID_ARGUMENT. Any thread.
 */
umrt_status umrt_model_prefix_cache_set(const umrt_model *model, uint64_t max_bytes);

/**
 * Makes a sequence hold as much of the beginning of `tokens` as is known already: what
 * it holds itself, or what the prefix cache does if that is more and the context uses
 * it. Evaluate the rest; that is at least the last token, whose logits nobody kept.
 *
 * - `tokens`, `n_tokens`: all that the sequence shall hold.
 * - `n_reused`: receives how many tokens the sequence holds now.
 *
 * What the sequence held beyond that is forgotten. The tokens go on with the same bits
 * as if the sequence that evaluated them first had been forked and trimmed. A token's
 * bits depend a little on how many were evaluated with it, so the logits may differ
 * from those of one evaluation from the beginning by as much as those of another
 * `prefill_chunk` would. Tokens computed with other adapters are not reused.
 *
 * Sequences of models with recurrent layers can be cut in few places (`umrt_seq_trim`):
 * they keep what they hold if the tokens begin with all of it, or else what is in front
 * of the last such place, which may be nothing.
 *
 * With our own kernels this takes no memory but that of the last block, as for a fork;
 * with MLX's operations, as on a GPU, it copies.
 *
 * Returns INVALID_ARGUMENT (no such sequence, no tokens), OUT_OF_MEMORY (the sequence is
 * as before), BUSY. Any thread.
 */
umrt_status umrt_seq_reuse_prefix(umrt_ctx *ctx,
                                  int32_t seq,
                                  const int32_t *tokens,
                                  size_t n_tokens,
                                  uint32_t *n_reused);

/**
 * Removes `drop` tokens of a sequence from `from` on. The tokens behind them move to
 * their places: their keys are turned by as many positions as they move, and are those
 * that they would have been there. What they have seen of the removed tokens stays in
 * them, as in all sliding windows, so the text goes on a little otherwise than if it had
 * been evaluated without them. Where a model attends in chunks, what comes behind sees
 * the chunks of the new places.
 *
 * Keys are rounded once more to the type of the cache, for each shift; with 8 or 4 bits
 * they are quantized again. Takes about as long as copying keys and values, and no
 * memory but for blocks that are shared; with MLX's operations, as on a GPU, the
 * sequence's size twice for a moment.
 *
 * Returns INVALID_ARGUMENT (no such sequence, or it holds fewer tokens), UNSUPPORTED
 * (learned positions, recurrent layers), OUT_OF_MEMORY (the sequence is as before), BUSY.
 * Any thread.
 */
umrt_status umrt_seq_shift(umrt_ctx *ctx, int32_t seq, uint32_t from, uint32_t drop);

/**
 * Opens an adapter for a model by mapping it; nothing is copied, and the model stays
 * as it is. A context uses it from `umrt_ctx_set_adapters` on.
 *
 * - `path`: a directory as mlx-lm (adapter_config.json, adapters.safetensors) or
 *   PEFT (adapter_config.json, adapter_model.safetensors) writes it.
 * - `adapter`: receives the handle. Free it with `umrt_adapter_free`.
 *
 * The file must not be changed while it is open, as those of models
 * (`umrt_model_open`).
 *
 * Returns INVALID_ARGUMENT, NOT_FOUND, IO, FORMAT (what is wrong in which file, or
 * what does not fit to the model), UNSUPPORTED (names what: adapters of
 * embeddings and experts, biases, whole modules), OVER_BUDGET, OUT_OF_MEMORY, BACKEND.
 * Any thread.
 */
umrt_status umrt_adapter_open(const umrt_model *model,
                              const char *path,
                              umrt_adapter **adapter);

/**
 * Gives the adapter back. It stays open until no context uses it any more. NULL is
 * ignored. Any thread.
 */
void umrt_adapter_free(umrt_adapter *adapter);

/**
 * Evaluates with these adapters from now on, instead of those set before. Other
 * contexts are not affected; without adapters results are what they were before.
 *
 * Sequences keep their tokens, and what was computed for them: keys and values in
 * the KV cache remain those of the adapters that they were made with, and only new
 * tokens are computed with the new ones. To have all tokens under the new adapters
 * call `umrt_seq_trim(ctx, seq, 0)` and evaluate them again.
 *
 * - `adapters`, `scales`: `n` each. Each adapter's update is multiplied with its
 *   scale: 1 is as trained, 0 as if it was not there. NULL `scales`: all 1.
 * - `n`: 0: no adapters any more.
 *
 * If it fails, the adapters from before stay.
 *
 * Returns INVALID_ARGUMENT (an adapter of another model, a scale that is not finite),
 * OVER_BUDGET (a step's intermediate results), BUSY. Any thread.
 */
umrt_status umrt_ctx_set_adapters(umrt_ctx *ctx,
                                  const umrt_adapter *const *adapters,
                                  const float *scales,
                                  size_t n);

/**
 * Brings a model's weights into memory, locks them there, or lets them go.
 *
 * - `residency`: `UMRT_RESIDENCY_*`. It replaces what was asked for before.
 * - `params`: NULL for defaults.
 *
 * Other calls may use the model meanwhile. When it fails or is cancelled, what was
 * read stays as with `UMRT_RESIDENCY_MAPPED`.
 *
 * Returns INVALID_ARGUMENT, IO (the disk failed, or a file was shortened or written
 * to since it was opened), OVER_BUDGET (RLIMIT_MEMLOCK; the message says how to
 * raise it), UNSUPPORTED, CANCELLED, OUT_OF_MEMORY. Any thread.
 */
umrt_status umrt_model_residency(const umrt_model *model,
                                 uint32_t residency,
                                 const umrt_residency_params *params);

/**
 * Says which models give way to this one and when it gives way itself.
 *
 * - `policy`: NULL for the defaults.
 *
 * Returns INVALID_ARGUMENT, OVER_BUDGET (a model to be pinned does not fit beside
 * what else must stay). Any thread.
 */
umrt_status umrt_model_policy_set(const umrt_model *model,
                                  const umrt_model_policy *policy);

/**
 * Finds out what is wrong with memory. Call it every second or so, or when tokens
 * come slowly: rates are those since the last call, and the first call only begins
 * to measure.
 *
 * - `ctx`: whose sequences to look at; may be NULL.
 * - `diagnosis`: receives the most urgent finding, with what to do about it.
 *
 * Returns INVALID_ARGUMENT, BUSY (the context is computing), IO, BACKEND. Any
 * thread.
 */
umrt_status umrt_memory_diagnose(const umrt_ctx *ctx, umrt_memory_diagnosis *diagnosis);

/**
 * What a finding (`UMRT_FINDING_*`) means, for people. Static; NULL for other
 * numbers. Any thread.
 */
const char *umrt_finding_text(uint32_t finding);

/**
 * What to do about a finding (`UMRT_FINDING_*`), for people. Static; NULL for other
 * numbers. Any thread.
 */
const char *umrt_finding_advice(uint32_t finding);

/**
 * Says from a checkpoint's headers what opening it and making one context would
 * take, and whether it fits beside what is open; takes a millisecond or two.
 *
 * - `path`: a directory with config.json and safetensors files.
 * - `model`, `ctx`: as for `umrt_model_open` and `umrt_ctx_new`; NULL for defaults.
 *
 * Returns INVALID_ARGUMENT, NOT_FOUND, IO, FORMAT, UNSUPPORTED (names what). That
 * it does not fit is a result, not a failure. Any thread.
 */
umrt_status umrt_model_estimate(const char *path,
                                const umrt_model_params *model,
                                const umrt_ctx_params *ctx,
                                umrt_memory_estimate *estimate);

/**
 * The same by numbers alone, for a checkpoint or a machine that is not here.
 *
 * Returns INVALID_ARGUMENT (a number that makes no sense, named). Any thread.
 */
umrt_status umrt_numbers_plan(const umrt_numbers *numbers, umrt_numbers_result *result);

/**
 * Sets how much all models and contexts of the process may use together. Limits
 * of the system stay in force: the control group's, resource limits, the GPU's
 * working set. What is open stays open; only what comes next is refused.
 *
 * - `budget`: NULL for the default, 75% of physical memory.
 *
 * Returns INVALID_ARGUMENT, BACKEND. Any thread.
 */
umrt_status umrt_memory_budget_set(const umrt_memory_budget *budget);

/**
 * Fills in the budget and what is promised of it.
 *
 * Returns INVALID_ARGUMENT. Any thread.
 */
umrt_status umrt_memory_budget_get(umrt_memory_budget_info *info);

/**
 * Writes a checkpoint of floats as a quantized one, in MLX's formats: the same
 * tensors under the same names that mlx-lm's conversion gives, with config.json and
 * the tokenizer's files. What takes part stays on disk but for a few rows of each
 * thread.
 *
 * - `source`: a directory with config.json and safetensors files.
 * - `target`: the new directory. It is written under a hidden name beside it, and
 *   complete when it appears; a failed or cancelled call leaves nothing.
 * - `params`: NULL for defaults, 4 bits in groups of 64.
 *
 * Returns INVALID_ARGUMENT (also if something is at `target`), NOT_FOUND, IO, FORMAT
 * (what is wrong in which file), UNSUPPORTED (names what: families, weights that are
 * quantized already), CANCELLED, OUT_OF_MEMORY, BACKEND. Any thread.
 */
umrt_status umrt_model_quantize(const char *source,
                                const char *target,
                                const umrt_quantize_params *params);

/**
 * Compiles a constraint for a model. The first one of a model takes its vocabulary
 * apart, which is kept as long as the model or one of its constraints.
 *
 * - `kind`: `UMRT_CONSTRAINT_*`
 * - `text`: `length` bytes of UTF-8; NULL if there are none.
 * - `constraint`: receives the handle. Free it with `umrt_constraint_free`.
 *
 * While a text is generated, only tokens are chosen with which it can become one that
 * the constraint describes; of tokens that are no text, only those that end it, where it
 * may end. A generation ends with `UMRT_STOP_END` where the model ends the text or
 * nothing can be added to it. If it ends earlier (`max_tokens`, a stop string, a full
 * context), the text is a beginning.
 *
 * Returns INVALID_ARGUMENT (no such kind; the text is no JSON, no expression or no
 * grammar, or exceeds a limit: the message says where and why), UNSUPPORTED (keywords of
 * JSON Schema that it does not implement; a tokenizer whose tokens have no text of their
 * own; more memory than compiling may use), NOT_FOUND (no tokenizer), FORMAT (it is
 * broken), OUT_OF_MEMORY. Any thread.
 */
umrt_status umrt_constraint_new(const umrt_model *model,
                                uint32_t kind,
                                const char *text,
                                size_t length,
                                umrt_constraint **constraint);

/**
 * Frees the constraint; generations that use it go on. NULL is ignored. Any thread.
 */
void umrt_constraint_free(umrt_constraint *constraint);

/**
 * Makes a sampler.
 *
 * - `params`: NULL for greedy decoding.
 * - `sampler`: receives the handle. Free it with `umrt_sampler_free`.
 *
 * Returns INVALID_ARGUMENT (names the field and its range). Any thread.
 */
umrt_status umrt_sampler_new(const umrt_sampler_params *params, umrt_sampler **sampler);

/**
 * Puts the sampler back to its beginning: the seed again, no remembered tokens, no
 * constraint.
 *
 * Returns INVALID_ARGUMENT, BUSY. Any thread.
 */
umrt_status umrt_sampler_reset(umrt_sampler *sampler);

/**
 * Remembers a token that the sampler did not choose itself, such as those of a
 * prompt, for the penalties, and where the sampler has a constraint, for that: set one
 * behind the prompt.
 *
 * Returns INVALID_ARGUMENT (also for a token that the constraint does not allow here; it
 * is not remembered), UNSUPPORTED (the constraint becomes too complex), BUSY. Any thread.
 */
umrt_status umrt_sampler_accept(umrt_sampler *sampler, int32_t token);

/**
 * From the next token on, `umrt_sample` chooses what the constraint allows: the
 * beginning of a text of it. Where nothing can follow it gives a token that ends texts.
 * Generations have their own constraint, in their parameters.
 *
 * - `constraint`: NULL for none any more. It may be freed while it is in use here.
 *
 * Returns INVALID_ARGUMENT, BUSY. Any thread.
 */
umrt_status umrt_sampler_constrain(umrt_sampler *sampler,
                                   const umrt_constraint *constraint);

/**
 * Frees the sampler. NULL is ignored. Any thread.
 */
void umrt_sampler_free(umrt_sampler *sampler);

/**
 * Chooses a token from one row of the last evaluation's logits, and remembers it.
 *
 * - `row`: from 0 to `n_logits` less one.
 *
 * Returns INVALID_ARGUMENT (no such row; a constraint of another model), UNSUPPORTED (its
 * constraint becomes too complex), BUSY (context or sampler), BACKEND (all logits are
 * NaN). Any thread.
 */
umrt_status umrt_sample(umrt_ctx *ctx, umrt_sampler *sampler, size_t row, int32_t *token);

/**
 * Appends a prompt to a sequence, samples token by token and hands over text as
 * it becomes certain. The token sampled last is not in the sequence.
 *
 * - `callback`: may be NULL; then a prompt of tokens without stop strings needs no
 *   tokenizer. It must not use this context (it would get BUSY).
 * - `cancel`: stops it with CANCELLED; may be NULL.
 * - `result`: may be NULL.
 *
 * Whatever ends it early, all finished tokens stay in the sequence.
 *
 * With `draft` or `ngram`, tokens are guessed and checked several at once, which is
 * faster where guesses are often right. What comes out is the same: at temperature 0
 * token by token (on a GPU, where rounding depends on how many tokens are evaluated
 * together, up to near ties); above, tokens have the same probabilities, but a seed
 * gives other ones than without guesses.
 *
 * Where tokens are chosen on a GPU, it computes a step while the token before is looked
 * at; not with a prefix cache or `UMRT_OVERFLOW_SHIFT`, which do something in between.
 *
 * Guesses with a constraint are checked against what it allows, each at its place.
 *
 * Returns INVALID_ARGUMENT (also a draft model of another vocabulary: the message
 * names the difference; a constraint of another model), UNSUPPORTED (see
 * `sampling_device`; a draft model with recurrent layers; a constraint that becomes too
 * complex, or whose text the model's tokens cannot go on with), NOT_FOUND (no tokenizer or
 * chat template), FORMAT (they are broken), NO_SPACE (the prompt does not fit), OVER_BUDGET
 * (no room for the logits of guesses), BUSY, CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY,
 * BACKEND. Any thread.
 */
umrt_status umrt_generate(umrt_ctx *ctx,
                          const umrt_generate_params *params,
                          umrt_text_fn callback,
                          void *userdata,
                          const umrt_cancel *cancel,
                          umrt_generate_result *result);

/**
 * Makes a scheduler. Between steps the context may be used for other things, on
 * sequences that no request uses. A context has one scheduler at most at a time.
 *
 * - `params`: NULL for defaults.
 * - `scheduler`: receives the handle. Free it with `umrt_scheduler_free`.
 *
 * Returns INVALID_ARGUMENT, BUSY (the context). Any thread.
 */
umrt_status umrt_scheduler_new(umrt_ctx *ctx,
                               const umrt_scheduler_params *params,
                               umrt_scheduler **scheduler);

/**
 * Hands a request in. It gets a sequence at one of the next steps, in order of
 * arrival.
 *
 * - `id`: receives the request's number, never 0; may be NULL.
 *
 * If it fails, there is no request, and its callbacks are not called.
 *
 * Returns INVALID_ARGUMENT, NOT_FOUND (no tokenizer or chat template), FORMAT (they
 * are broken), NO_SPACE (the prompt is longer than `n_ctx`). Any thread, from
 * callbacks too, also while a step runs.
 */
umrt_status umrt_scheduler_submit(umrt_scheduler *scheduler,
                                  const umrt_request *request,
                                  uint64_t *id);

/**
 * Evaluates one step: see `umrt_scheduler`. Callbacks run inside of it. Call it
 * until `n_active` is 0, and again after something was submitted.
 *
 * - `cancel`: stops the step, not the requests; may be NULL.
 * - `result`: may be NULL.
 *
 * What goes wrong with one request ends that request. If the step itself fails or
 * is cancelled, all requests are where they were before, and the next step tries
 * again. (Only when MLX itself fails, BACKEND, can a sequence be lost; its request
 * ends with that status.) To give up, cancel the requests or free the scheduler.
 *
 * Returns INVALID_ARGUMENT, BUSY (another step, or a call that uses the context),
 * CANCELLED, OVER_BUDGET, OUT_OF_MEMORY, BACKEND. Any thread.
 */
umrt_status umrt_scheduler_step(umrt_scheduler *scheduler,
                                const umrt_cancel *cancel,
                                umrt_step_result *result);

/**
 * Ends a request with CANCELLED at the next step; in a step that runs, when that
 * ends, without another text.
 *
 * Returns INVALID_ARGUMENT, NOT_FOUND (it has ended already, or there never was
 * one). Any thread, from callbacks too, also while a step runs.
 */
umrt_status umrt_scheduler_cancel(umrt_scheduler *scheduler, uint64_t id);

/**
 * Takes the result of a request that ended, if it had no `finished`; afterwards the
 * scheduler knows nothing of it any more.
 *
 * Returns INVALID_ARGUMENT, BUSY (it has not ended), NOT_FOUND (there is no result:
 * it was taken, or there never was such a request). Any thread, from callbacks too,
 * also while a step runs.
 */
umrt_status umrt_scheduler_result(umrt_scheduler *scheduler,
                                  uint64_t id,
                                  umrt_request_result *result);

/**
 * Gives the scheduler back; if a step is running, when that ends. Requests that have
 * not ended are forgotten: their callbacks are not called again. The sequences that
 * they took are emptied, unless another call is using the context just then. NULL is
 * ignored. Any thread.
 */
void umrt_scheduler_free(umrt_scheduler *scheduler);

/**
 * Runs requests to their end in one call, as many at once as the context has empty
 * sequences: see `umrt_scheduler`.
 *
 * - `requests`: `n` structures, all of the first one's `struct_size`; `finished` is
 *   NULL in each. Callbacks must not use the context (they would get BUSY).
 * - `cancel`: stops all; may be NULL.
 * - `results`: receives `n` results in the order of the requests; may be NULL.
 *
 * What goes wrong with one request is in its result and ends that request. If the
 * call fails later than with its arguments, those that had not ended have its
 * status in their results, and the others theirs.
 *
 * Returns INVALID_ARGUMENT, BUSY, CANCELLED (by `cancel`), OVER_BUDGET,
 * OUT_OF_MEMORY, BACKEND. Any thread.
 */
umrt_status umrt_generate_many(umrt_ctx *ctx,
                               const umrt_request *requests,
                               size_t n,
                               const umrt_cancel *cancel,
                               umrt_request_result *results);

/**
 * Computes a vector for each text: the hidden states behind the model's last norm,
 * pooled over its tokens. No logits are computed.
 *
 * - `cancel`: stops it; may be NULL.
 * - `vectors`, `capacity`: receives `n_texts` times `hidden_size` floats, see
 *   `umrt_model_info`.
 * - `needed`: receives how many floats it takes; may be NULL.
 *
 * Texts are evaluated next to each other in the context's sequences that hold no
 * tokens, and in no other, so more sequences are faster for short texts. Afterwards
 * those are empty again, and the logits of the last evaluation are still there.
 *
 * Returns INVALID_ARGUMENT (a text without tokens, an unknown pooling), NOT_FOUND (no
 * tokenizer), NO_SPACE (the buffer is too small; a text is longer than `n_ctx`; no
 * sequence is empty), OVER_BUDGET, BUSY, CANCELLED, OUT_OF_MEMORY, BACKEND. Any
 * thread.
 */
umrt_status umrt_embed(umrt_ctx *ctx,
                       const umrt_embed_params *params,
                       const umrt_cancel *cancel,
                       float *vectors,
                       size_t capacity,
                       size_t *needed);

/**
 * Computes the log-probability (natural logarithm) of each token of given
 * continuations of a prompt. Memory is taken for the logits of a few tokens at a time,
 * however long the continuations are. The prompt is evaluated once.
 *
 * - `cancel`: stops it; may be NULL.
 * - `logprobs`, `capacity`: receives a float for each token of all continuations, in
 *   their order.
 * - `needed`: receives how many that are; may be NULL.
 *
 * Whatever happens, the sequence is afterwards as before, and so are the logits of the
 * last evaluation.
 *
 * Returns INVALID_ARGUMENT (no prompt, no continuation or one without tokens, a token
 * or sequence id out of range), NO_SPACE (the buffer is too small; sequence, prompt and
 * a continuation exceed `n_ctx`), OVER_BUDGET, BUSY, CANCELLED, OUT_OF_MEMORY, BACKEND.
 * Any thread.
 */
umrt_status umrt_score(umrt_ctx *ctx,
                       const umrt_score_params *params,
                       const umrt_cancel *cancel,
                       float *logprobs,
                       size_t capacity,
                       size_t *needed);

/**
 * Finds the most likely tokens in one row of the last evaluation's logits, before any
 * sampler looked at them.
 *
 * - `row`: from 0 to `n_logits` less one.
 * - `k`: how many, from 1 to `vocab_size`.
 * - `tokens`, `logprobs`: receive `k` each, the most likely first: ids, and natural
 *   logarithms of their probabilities.
 *
 * Returns INVALID_ARGUMENT (no such row, `k` out of range), BUSY, BACKEND (logits are
 * NaN). Any thread.
 */
umrt_status umrt_top_logprobs(const umrt_ctx *ctx,
                              size_t row,
                              uint32_t k,
                              int32_t *tokens,
                              float *logprobs);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* UMRT_H */
