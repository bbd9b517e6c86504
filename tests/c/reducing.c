/* Idle sequences in fewer bits. */

#include "fixtures.h"

enum { N_TEXT = 20, N_CTX = 64 };

static umrt_status new_reducible(const umrt_model *model, uint32_t pressure_kv_type,
                                 umrt_ctx **ctx) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = N_CTX;
  params.pressure_kv_type = pressure_kv_type;
  return umrt_ctx_new(model, &params, ctx);
}

static uint64_t reserved_bytes(const umrt_ctx *ctx) {
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  CHECK_OK(umrt_ctx_memory_stats(ctx, &memory));
  return memory.kv_reserved_bytes;
}

static void sequences_shrink_where_they_may(const umrt_model *model) {
  int32_t text[N_TEXT];
  for (int32_t i = 0; i < N_TEXT; i++)
    text[i] = 1 + i * 7 % 97;
  umrt_ctx *ctx = NULL;
  REQUIRE(CHECK_OK(new_reducible(model, UMRT_KV_BF16, &ctx)));
  umrt_ctx *other = new_context(model, N_CTX);
  CHECK_OK(eval_tokens(ctx, text, N_TEXT));
  CHECK_OK(eval_tokens(other, text, N_TEXT));
  const uint64_t before = reserved_bytes(ctx);
  CHECK(before > 0);

  umrt_trim_result trimmed = UMRT_TRIM_RESULT_INIT;
  CHECK_OK(umrt_memory_trim(0, &trimmed));
  CHECK_EQUAL(0, trimmed.n_reduced);
  CHECK_OK(umrt_memory_trim(UMRT_TRIM_REDUCE_SEQUENCES, &trimmed));
  CHECK_EQUAL(1, trimmed.n_reduced);
  CHECK_EQUAL(before / 2, trimmed.reduced_bytes);
  CHECK_EQUAL(before / 2, reserved_bytes(ctx));
  CHECK_EQUAL(before, reserved_bytes(other));
  CHECK_OK(eval_tokens(ctx, text, 1));
  CHECK_EQUAL(N_TEXT + 1, length_of(ctx));

  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(eval_tokens(ctx, text, N_TEXT));
  CHECK_EQUAL(before, reserved_bytes(ctx));
  CHECK_OK(umrt_memory_pressure_notify(UMRT_PRESSURE_WARNING, &trimmed));
  CHECK_EQUAL(1, trimmed.n_reduced);
  CHECK_OK(umrt_memory_pressure_notify(UMRT_PRESSURE_NORMAL, NULL));
  umrt_ctx_free(other);
  umrt_ctx_free(ctx);
}

static void what_makes_no_room_is_refused(const umrt_model *model) {
  umrt_ctx *ctx = NULL;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "no room", new_reducible(model, UMRT_KV_F32, &ctx));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "pressure_kv_type is 8", new_reducible(model, 8, &ctx));
  CHECK_FAILS(UMRT_UNSUPPORTED, "groups of 64", new_reducible(model, UMRT_KV_Q8_G64, &ctx));
}

int main(void) {
  umrt_model *model = open_model(TOKEN_MODEL);
  sequences_shrink_where_they_may(model);
  what_makes_no_room_is_refused(model);
  umrt_model_free(model);
  return check_summary(__FILE__);
}
