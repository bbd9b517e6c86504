/* The worker (worker.h) that runs umrt. */

#define _POSIX_C_SOURCE 199309L

#include "umrt.h"
#include "worker.h"

static umrt_model *model;
static umrt_ctx *ctx;
static int32_t vocab_size;
static uint32_t n_rows;

static void check(umrt_status status) {
  if (status != UMRT_OK) fail("%s: %s", umrt_status_name(status), umrt_last_error());
}

static void engine_open(const char *path) {
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  params.device = UMRT_DEVICE_CPU;
  check(umrt_model_open(path, &params, &model));
  check(umrt_model_info_get(model, &info));
  vocab_size = (int32_t)info.vocab_size;
}

static void engine_new_context(uint32_t n_ctx, uint32_t n_seq, int32_t n_threads) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = n_ctx;
  params.n_seq = n_seq;
  params.n_threads = (uint32_t)n_threads;
  params.prefill_chunk = CHUNK;
  umrt_ctx_free(ctx);
  ctx = NULL;
  check(umrt_ctx_new(model, &params, &ctx));
}

static int32_t engine_vocab_size(void) {
  return vocab_size;
}

static void engine_eval(const int32_t *tokens, const int32_t *seq_ids, const uint8_t *want_logits,
                        int32_t n_tokens) {
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_eval_result result = UMRT_EVAL_RESULT_INIT;
  batch.n_tokens = (uint32_t)n_tokens;
  batch.tokens = tokens;
  batch.seq_ids = seq_ids;
  batch.want_logits = want_logits;
  check(umrt_eval(ctx, &batch, NULL, &result));
  n_rows = result.n_logits;
}

static void engine_trim(int32_t seq, uint32_t keep) {
  check(umrt_seq_trim(ctx, seq, keep));
}

static const float *engine_logits(void) {
  const float *logits = NULL;
  check(umrt_logits_view(ctx, n_rows - 1, &logits));
  return logits;
}
