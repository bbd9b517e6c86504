/* Texts that begin alike share what was computed; sequences lose tokens. */

#include "fixtures.h"

enum { N_TEXT = 300, N_CTX = 320, N_KEEP = 4 };
static int32_t text[N_TEXT];

static umrt_ctx *context_with(const umrt_model *model, uint32_t prefix_cache, uint32_t overflow) {
  umrt_ctx *ctx = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = N_CTX;
  params.prefix_cache = prefix_cache;
  params.overflow = overflow;
  params.n_keep = overflow == UMRT_OVERFLOW_SHIFT ? N_KEEP : 0;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  return ctx;
}

static umrt_perf perf_of(const umrt_ctx *ctx) {
  umrt_perf perf = UMRT_PERF_INIT;
  CHECK_OK(umrt_ctx_perf(ctx, &perf));
  return perf;
}

static void a_known_beginning_is_reused(const umrt_model *model) {
  CHECK_OK(umrt_model_prefix_cache_set(model, 1 << 30));
  umrt_ctx *first = context_with(model, 1, UMRT_OVERFLOW_REFUSE);
  CHECK_OK(eval_tokens(first, text, N_TEXT));
  umrt_ctx_free(first);
  CHECK(process_memory().prefix_cache_bytes > 0);

  umrt_ctx *second = context_with(model, 1, UMRT_OVERFLOW_REFUSE);
  uint32_t n_reused = 0;
  CHECK_OK(umrt_seq_reuse_prefix(second, 0, text, N_TEXT, &n_reused));
  CHECK_EQUAL(N_TEXT - 1, n_reused);
  CHECK_EQUAL(N_TEXT - 1, length_of(second));
  CHECK_EQUAL(1, perf_of(second).n_prefix_hits);
  CHECK_EQUAL(N_TEXT - 1, perf_of(second).n_prefix_tokens);
  CHECK_OK(eval_tokens(second, text + n_reused, N_TEXT - n_reused));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_reuse_prefix(second, 0, text, 0, &n_reused));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_reuse_prefix(second, 1, text, 1, &n_reused));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_reuse_prefix(NULL, 0, text, 1, &n_reused));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_model_prefix_cache_set(NULL, 1));
  umrt_ctx_free(second);

  umrt_trim_result trimmed = UMRT_TRIM_RESULT_INIT;
  const uint64_t held = process_memory().prefix_cache_bytes;
  CHECK_OK(umrt_memory_trim(UMRT_TRIM_PREFIX_CACHES, &trimmed));
  CHECK_EQUAL(held, trimmed.prefix_cache_bytes);
  CHECK_EQUAL(0, process_memory().prefix_cache_bytes);
  CHECK_OK(umrt_model_prefix_cache_set(model, 0));
}

static void tokens_leave_by_hand_or_to_make_room(const umrt_model *model) {
  umrt_ctx *ctx = context_with(model, 0, UMRT_OVERFLOW_REFUSE);
  CHECK_OK(eval_tokens(ctx, text, N_TEXT));
  CHECK_FAILS(UMRT_NO_SPACE, "do not fit", eval_tokens(ctx, text, N_CTX - N_TEXT + 1));
  CHECK_OK(umrt_seq_shift(ctx, 0, 10, 50));
  CHECK_EQUAL(N_TEXT - 50, length_of(ctx));
  CHECK_EQUAL(50, perf_of(ctx).n_removed_tokens);
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_shift(ctx, 0, N_TEXT - 50, 1));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_shift(ctx, 1, 0, 1));
  umrt_ctx_free(ctx);

  ctx = context_with(model, 0, UMRT_OVERFLOW_SHIFT);
  CHECK_OK(eval_tokens(ctx, text, N_TEXT));
  CHECK_OK(eval_tokens(ctx, text, N_CTX - N_TEXT + 1));
  CHECK_EQUAL((N_TEXT - N_KEEP) / 2, perf_of(ctx).n_removed_tokens);
  umrt_ctx_free(ctx);

  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.overflow = 2;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "overflow is 2", umrt_ctx_new(model, &params, &ctx));
  params.overflow = UMRT_OVERFLOW_SHIFT;
  params.n_ctx = params.n_keep = 100;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "n_keep is 100", umrt_ctx_new(model, &params, &ctx));
}

int main(void) {
  for (int32_t i = 0; i < N_TEXT; i++)
    text[i] = 1 + i * 7 % 97;
  umrt_model *model = open_model(TOKEN_MODEL);
  a_known_beginning_is_reused(model);
  tokens_leave_by_hand_or_to_make_room(model);
  umrt_model_free(model);
  return check_summary(__FILE__);
}
