/* The worker (worker.h) that runs umrt. */

#define _POSIX_C_SOURCE 199309L

#include "umrt.h"
#include "worker.h"

/* An open model. */
struct slot {
  char path[MAX_LINE];
  umrt_model_params model_params;
  umrt_ctx_params ctx_params;
  umrt_model *model;
  umrt_ctx *ctx;
  int32_t vocab_size;
};

/* The one in use, and the one that is set aside. */
static struct slot used, spare;
static uint32_t n_rows;
/* Whether new contexts have a prefix cache. */
static uint32_t keeps_prefixes;
/* As what new contexts multiply activations, UMRT_ACTIVATIONS_*. */
static uint32_t activations;
/* Of the last `continue`. */
static uint32_t n_drafted, n_accepted;

static void check(umrt_status status) {
  if (status != UMRT_OK) fail("%s: %s", umrt_status_name(status), umrt_last_error());
}

static void engine_open(const char *path) {
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  params.device = UMRT_DEVICE_CPU;
  check(umrt_model_open(path, &params, &used.model));
  check(umrt_model_info_get(used.model, &info));
  used.vocab_size = (int32_t)info.vocab_size;
  used.model_params = params;
  snprintf(used.path, sizeof used.path, "%s", path);
}

static void engine_new_context(uint32_t n_ctx, uint32_t n_seq, int32_t n_threads) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = n_ctx;
  params.n_seq = n_seq;
  params.n_threads = (uint32_t)n_threads;
  params.prefill_chunk = CHUNK;
  params.prefix_cache = keeps_prefixes;
  params.activations = activations;
  umrt_ctx_free(used.ctx);
  used.ctx = NULL;
  check(umrt_ctx_new(used.model, &params, &used.ctx));
  used.ctx_params = params;
}

static void engine_many(int32_t n_requests, int32_t n_prompt, int32_t n_tokens) {
  static umrt_request_result results[MAX_SEQUENCES];
  static umrt_request requests[MAX_SEQUENCES];
  umrt_generate_params params[MAX_SEQUENCES];
  int32_t *prompts = malloc(sizeof *prompts * (size_t)(n_requests * n_prompt));
  if (!prompts) fail("no memory");
  for (int32_t i = 0; i < n_requests * n_prompt; i++) prompts[i] = next_token();
  for (int32_t i = 0; i < n_requests; i++) {
    params[i] = UMRT_GENERATE_PARAMS_INIT;
    params[i].tokens = prompts + i * n_prompt;
    params[i].n_tokens = (size_t)n_prompt;
    params[i].max_tokens = (uint32_t)n_tokens;
    params[i].flags = UMRT_GENERATE_IGNORE_END;
    requests[i] = UMRT_REQUEST_INIT;
    requests[i].params = &params[i];
    results[i] = UMRT_REQUEST_RESULT_INIT;
  }
  check(umrt_generate_many(used.ctx, requests, (size_t)n_requests, NULL, results));
  for (int32_t i = 0; i < n_requests; i++) {
    if (results[i].status != UMRT_OK) fail("request %d: %s", (int)i, results[i].message);
    first_token_at[i] = (double)results[i].first_token_ns / 1e9;
  }
  free(prompts);
}

static void engine_fork(int32_t seq) {
  check(umrt_seq_fork(used.ctx, 0, seq));
}

static void engine_save(const char *path) {
  check(umrt_seq_save(used.ctx, 0, path));
}

static void engine_load(const char *path) {
  check(umrt_seq_load(used.ctx, 0, path));
}

static void engine_close(void) {
  umrt_ctx_free(used.ctx);
  umrt_model_free(used.model);
  used = (struct slot){0};
}

static int32_t engine_vocab_size(void) {
  return used.vocab_size;
}

static void engine_eval(const int32_t *tokens, const int32_t *seq_ids, const uint8_t *want_logits,
                        int32_t n_tokens) {
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_eval_result result = UMRT_EVAL_RESULT_INIT;
  batch.n_tokens = (uint32_t)n_tokens;
  batch.tokens = tokens;
  batch.seq_ids = seq_ids;
  batch.want_logits = want_logits;
  check(umrt_eval(used.ctx, &batch, NULL, &result));
  n_rows = result.n_logits;
}

static void engine_trim(int32_t seq, uint32_t keep) {
  check(umrt_seq_trim(used.ctx, seq, keep));
}

static const float *engine_logits(void) {
  const float *logits = NULL;
  check(umrt_logits_view(used.ctx, n_rows - 1, &logits));
  return logits;
}

/* Generates from an empty sequence. */
static void generate(umrt_generate_params params, umrt_generate_result *result) {
  params.flags = UMRT_GENERATE_IGNORE_END;
  engine_trim(0, 0);
  check(umrt_generate(used.ctx, &params, NULL, NULL, NULL, result));
}

static void first_token_again(int32_t n_tokens) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  int32_t *tokens = malloc(sizeof *tokens * (size_t)n_tokens);
  if (!tokens) fail("no memory");
  for (int32_t i = 0; i < n_tokens; i++) tokens[i] = next_token();
  params.tokens = tokens;
  params.n_tokens = (size_t)n_tokens;
  params.max_tokens = 1;
  for (int32_t i = 0; i < 2; i++) {
    double start = seconds();
    generate(params, NULL);
    first_token_at[i] = seconds() - start;
  }
  free(tokens);
}

/* Behind words where the model has a tokenizer, or else behind rounds in the circle of
 * walk_checkpoint.py: 16 places, at each of which the second token comes in 1 of 11 cases. */
static void continue_text(int32_t n_tokens, int32_t ngram, int32_t uses_draft, float temperature) {
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  umrt_generate_result result = UMRT_GENERATE_RESULT_INIT;
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  int32_t rounds[64];
  for (int32_t i = 0; i < 64; i++) rounds[i] = 2 * (i % 16) + (i * 5 % 11 == 0);
  check(umrt_model_info_get(used.model, &info));
  if (info.has_tokenizer) {
    params.prompt = "Once upon a time there was a brave fox named Ruby.";
  } else {
    params.tokens = rounds;
    params.n_tokens = sizeof rounds / sizeof *rounds;
  }
  sampling.temperature = temperature;
  sampling.seed = 1;
  params.sampling = &sampling;
  params.max_tokens = (uint32_t)n_tokens;
  params.ngram = (uint32_t)ngram;
  params.draft = uses_draft ? spare.ctx : NULL;
  generate(params, &result);
  n_drafted = result.n_drafted;
  n_accepted = result.n_accepted;
}

static bool engine_obey(const char *line) {
  int a, b, c;
  float temperature;
  if (strcmp(line, "swap") == 0) {
    struct slot other = spare;
    spare = used;
    used = other;
    return true;
  }
  if (strcmp(line, "release") == 0) {
    umrt_residency_params params = UMRT_RESIDENCY_PARAMS_INIT;
    params.flags = UMRT_RESIDENCY_DROP_CACHE;
    check(umrt_model_residency(used.model, UMRT_RESIDENCY_RELEASED, &params));
    return true;
  }
  if (strcmp(line, "prefixes") == 0)
    keeps_prefixes = 1;
  else if (strcmp(line, "eight-bits") == 0)
    activations = UMRT_ACTIVATIONS_EIGHT_BITS;
  else if (sscanf(line, "again %d", &a) == 1)
    first_token_again(a);
  else if (sscanf(line, "continue %d %d %d %f", &a, &b, &c, &temperature) == 4)
    continue_text(a, b, c, temperature);
  else
    return false;
  return true;
}

static double engine_figure(const char *name) {
  umrt_memory_estimate estimate = UMRT_MEMORY_ESTIMATE_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  check(umrt_memory_stats(&memory));
  check(umrt_model_estimate(used.path, &used.model_params, &used.ctx_params, &estimate));
  const struct {
    const char *name;
    uint64_t value;
  } figures[] = {
      {"weights", memory.weights_mapped_bytes},
      {"kv", memory.kv_peak_bytes},
      {"kv-now", memory.kv_reserved_bytes},
      {"step-peak", memory.mlx_peak_bytes + memory.kernels_peak_bytes},
      {"drafted", n_drafted},
      {"accepted", n_accepted},
      {"estimated-weights", estimate.weights_mapped_bytes},
      {"estimated-kv", estimate.kv_bytes},
      {"estimated-logits", estimate.logits_bytes},
      {"estimated-scratch", estimate.scratch_prefill_bytes},
      {"estimated-total", estimate.total_bytes},
  };
  for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
    if (strcmp(figures[i].name, name) == 0) return (double)figures[i].value;
  fail("no such figure: %s", name);
  return 0;
}
