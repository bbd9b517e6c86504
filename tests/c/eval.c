/* Evaluation and sampling by hand: logits, sequences, budgets, counters. */

#include "fixtures.h"

#include <math.h>

enum { VOCAB = 128 };

static umrt_model *model;
static token_list prompt;

static int32_t argmax(const float *logits) {
  int32_t best = 0;
  for (int32_t id = 1; id < VOCAB; id++)
    if (logits[id] > logits[best]) best = id;
  return best;
}

static int32_t sample(umrt_ctx *ctx, umrt_sampler *sampler) {
  int32_t token = -1;
  CHECK_OK(umrt_sample(ctx, sampler, 0, &token));
  return token;
}

static void greedy_decoding_gives_the_tokens_of_transformers(void) {
  const token_list expected = read_ids(TOKEN_MODEL "/fixture.json", "greedy_ids");
  umrt_ctx *ctx = new_context(model, 0);
  umrt_sampler *greedy = new_sampler(0, 0);
  const float *logits;
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  for (size_t i = 0; i < expected.n; i++) {
    CHECK_OK(umrt_logits_view(ctx, 0, &logits));
    CHECK_EQUAL(expected.ids[i], argmax(logits));
    CHECK_EQUAL(expected.ids[i], sample(ctx, greedy));
    CHECK_OK(eval_tokens(ctx, &expected.ids[i], 1));
  }
  umrt_sampler_free(greedy);
  umrt_ctx_free(ctx);
}

static void logits_are_the_same_copied_and_viewed(void) {
  float copied[VOCAB + 1];
  const float *view;
  size_t needed = 0;
  uint8_t want[MAX_IDS] = {[0] = 1, [5] = 1};
  umrt_ctx *ctx = new_context(model, 0);
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_eval_result result = UMRT_EVAL_RESULT_INIT;
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_logits_view(ctx, 0, &view));
  batch.tokens = prompt.ids;
  batch.n_tokens = 6;
  batch.want_logits = want;
  CHECK_OK(umrt_eval(ctx, &batch, NULL, &result));
  CHECK_EQUAL(2, result.n_logits);
  for (size_t row = 0; row < 2; row++) {
    copied[VOCAB] = -7;
    CHECK_OK(umrt_logits(ctx, row, copied, VOCAB, &needed));
    CHECK_EQUAL(VOCAB, needed);
    CHECK_OK(umrt_logits_view(ctx, row, &view));
    CHECK(memcmp(copied, view, VOCAB * sizeof *view) == 0);
    CHECK(copied[VOCAB] == -7);
  }
  copied[0] = -7;
  CHECK_STATUS(UMRT_NO_SPACE, umrt_logits(ctx, 0, copied, VOCAB - 1, &needed));
  CHECK(copied[0] == -7);
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_logits(ctx, 2, copied, VOCAB, &needed));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "row 2", umrt_logits_view(ctx, 2, &view));
  umrt_ctx_free(ctx);
}

static void seeds_decide_which_tokens_are_drawn(void) {
  enum { N = 64 };
  int32_t drawn[4][N];
  umrt_ctx *ctx = new_context(model, 0);
  umrt_sampler *samplers[] = {new_sampler(2, 1), new_sampler(2, 1), new_sampler(2, 2)};
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  for (int which = 0; which < 4; which++) {
    umrt_sampler *sampler = samplers[which % 3];
    if (which == 3) CHECK_OK(umrt_sampler_reset(sampler));
    for (int i = 0; i < N; i++) drawn[which][i] = sample(ctx, sampler);
  }
  CHECK(memcmp(drawn[0], drawn[1], sizeof *drawn) == 0);
  CHECK(memcmp(drawn[0], drawn[2], sizeof *drawn) != 0);
  CHECK(memcmp(drawn[0], drawn[3], sizeof *drawn) == 0);
  /* A call that fails draws nothing. */
  CHECK_OK(umrt_sampler_reset(samplers[0]));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_sample(ctx, samplers[0], 0, NULL));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_sample(ctx, samplers[0], 1, drawn[1]));
  for (int i = 0; i < N; i++) drawn[1][i] = sample(ctx, samplers[0]);
  CHECK(memcmp(drawn[0], drawn[1], sizeof *drawn) == 0);
  for (int which = 0; which < 3; which++) umrt_sampler_free(samplers[which]);
  umrt_ctx_free(ctx);
}

static void penalties_see_accepted_tokens(void) {
  umrt_ctx *ctx = new_context(model, 0);
  umrt_sampler *sampler;
  umrt_sampler_params params = UMRT_SAMPLER_PARAMS_INIT;
  params.repetition_window = 8;
  params.presence_penalty = 100;
  REQUIRE(CHECK_OK(umrt_sampler_new(&params, &sampler)));
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  const int32_t first = sample(ctx, sampler);
  CHECK(sample(ctx, sampler) != first);
  CHECK_OK(umrt_sampler_reset(sampler));
  CHECK_OK(umrt_sampler_accept(sampler, first));
  CHECK(sample(ctx, sampler) != first);
  umrt_sampler_free(sampler);
  params.top_p = NAN;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "top_p", umrt_sampler_new(&params, &sampler));
  CHECK(sampler == NULL);
  umrt_ctx_free(ctx);
}

static void refused_batches_change_nothing(void) {
  float before[VOCAB], after[VOCAB];
  const int32_t below = -1, beyond = VOCAB;
  umrt_ctx *ctx = new_context(model, 40);
  umrt_batch batch = UMRT_BATCH_INIT;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "token", umrt_eval(ctx, &batch, NULL, NULL));
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  CHECK_OK(umrt_logits(ctx, 0, before, VOCAB, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "-1", eval_tokens(ctx, &below, 1));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "128", eval_tokens(ctx, &beyond, 1));
  CHECK_FAILS(UMRT_NO_SPACE, "n_ctx", eval_tokens(ctx, prompt.ids, 40 - prompt.n + 1));
  batch.tokens = prompt.ids;
  batch.n_tokens = 1;
  batch.seq_ids = (const int32_t[]){1};
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "sequence 1", umrt_eval(ctx, &batch, NULL, NULL));
  batch.seq_ids = (const int32_t[]){-1};
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "sequence -1", umrt_eval(ctx, &batch, NULL, NULL));
  CHECK_EQUAL(prompt.n, length_of(ctx));
  CHECK_OK(umrt_logits(ctx, 0, after, VOCAB, NULL));
  CHECK(memcmp(before, after, sizeof before) == 0);
  CHECK_OK(eval_tokens(ctx, prompt.ids, 40 - prompt.n));
  CHECK_EQUAL(40, length_of(ctx));
  umrt_ctx_free(ctx);
}

static void a_cancelled_evaluation_changes_nothing(void) {
  umrt_ctx *ctx = new_context(model, 0);
  umrt_cancel *cancel;
  umrt_batch batch = UMRT_BATCH_INIT;
  CHECK_OK(umrt_cancel_new(&cancel));
  CHECK_OK(eval_tokens(ctx, prompt.ids, 4));
  batch.tokens = prompt.ids;
  batch.n_tokens = (uint32_t)prompt.n;
  umrt_cancel_trigger(cancel);
  CHECK_STATUS(UMRT_CANCELLED, umrt_eval(ctx, &batch, cancel, NULL));
  CHECK_EQUAL(4, length_of(ctx));
  umrt_cancel_reset(cancel);
  CHECK_OK(umrt_eval(ctx, &batch, cancel, NULL));
  CHECK_EQUAL(4 + prompt.n, length_of(ctx));
  umrt_cancel_free(cancel);
  umrt_ctx_free(ctx);
}

static void absurd_contexts_are_over_budget(void) {
  umrt_ctx *ctx;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = UINT32_MAX;
  CHECK_FAILS(UMRT_OVER_BUDGET, "n_ctx", umrt_ctx_new(model, &params, &ctx));
  CHECK(ctx == NULL);
  params.n_seq = UINT32_MAX;
  CHECK_STATUS(UMRT_OVER_BUDGET, umrt_ctx_new(model, &params, &ctx));
  CHECK(ctx == NULL);
  params.n_ctx = 1 << 20;
  params.n_seq = 1 << 14;
  CHECK_FAILS(UMRT_OVER_BUDGET, "MiB", umrt_ctx_new(model, &params, &ctx));
  CHECK(ctx == NULL);
}

static void trimmed_sequences_go_on_where_they_were_cut(void) {
  float whole[VOCAB], resumed[VOCAB];
  float difference = 0;
  umrt_ctx *ctx = new_context(model, 0);
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  CHECK_OK(umrt_logits(ctx, 0, whole, VOCAB, NULL));
  CHECK_OK(umrt_seq_trim(ctx, 0, 10));
  CHECK_EQUAL(10, length_of(ctx));
  CHECK_OK(eval_tokens(ctx, prompt.ids + 10, prompt.n - 10));
  CHECK_OK(umrt_logits(ctx, 0, resumed, VOCAB, NULL));
  for (int id = 0; id < VOCAB; id++) {
    const float off = whole[id] < resumed[id] ? resumed[id] - whole[id] : whole[id] - resumed[id];
    if (!(off <= difference)) difference = off;
  }
  CHECK(difference < 1e-4f);
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_trim(ctx, 0, (uint32_t)prompt.n + 1));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_seq_trim(ctx, 1, 0));
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(umrt_ctx_memory_stats(ctx, &memory));
  CHECK_EQUAL(0, memory.kv_reserved_bytes);
  umrt_ctx_free(ctx);
}

static void sequences_do_not_see_each_other(void) {
  float alone[VOCAB], beside[VOCAB];
  umrt_ctx *ctx;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_eval_result result = UMRT_EVAL_RESULT_INIT;
  params.n_seq = 2;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  batch.tokens = (const int32_t[]){35, 10, 38, 65};
  batch.seq_ids = (const int32_t[]){0, 1, 0, 1};
  batch.n_tokens = 4;
  CHECK_OK(umrt_eval(ctx, &batch, NULL, &result));
  CHECK_EQUAL(2, result.n_logits);
  CHECK_OK(umrt_logits(ctx, 1, beside, VOCAB, NULL));
  umrt_ctx *single = new_context(model, 0);
  CHECK_OK(eval_tokens(single, (const int32_t[]){10, 65}, 2));
  CHECK_OK(umrt_logits(single, 0, alone, VOCAB, NULL));
  CHECK_EQUAL(argmax(alone), argmax(beside));
  umrt_ctx_free(single);
  umrt_ctx_free(ctx);
}

static void forks_share_what_they_have_in_common(void) {
  float forked[VOCAB], alone[VOCAB];
  umrt_ctx *ctx;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_memory_info before = UMRT_MEMORY_INFO_INIT, after = UMRT_MEMORY_INFO_INIT;
  params.n_seq = 2;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n - 1));
  CHECK_OK(umrt_ctx_memory_stats(ctx, &before));
  CHECK_OK(umrt_seq_fork(ctx, 0, 1));
  CHECK_OK(umrt_ctx_memory_stats(ctx, &after));
  CHECK_EQUAL(before.kv_reserved_bytes, after.kv_reserved_bytes);
  CHECK_EQUAL(before.kv_used_bytes, after.kv_used_bytes);
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  batch.tokens = prompt.ids + prompt.n - 1;
  batch.seq_ids = (const int32_t[]){1};
  batch.n_tokens = 1;
  CHECK_OK(umrt_eval(ctx, &batch, NULL, NULL));
  CHECK_OK(umrt_logits(ctx, 0, forked, VOCAB, NULL));
  umrt_ctx *single = new_context(model, 0);
  CHECK_OK(eval_tokens(single, prompt.ids, prompt.n));
  CHECK_OK(umrt_logits(single, 0, alone, VOCAB, NULL));
  CHECK_EQUAL(argmax(alone), argmax(forked));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "sequence 2", umrt_seq_fork(ctx, 2, 0));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "sequence -1", umrt_seq_fork(ctx, 0, -1));
  umrt_ctx_free(single);
  umrt_ctx_free(ctx);
}

static void keys_and_values_take_the_bytes_of_their_type(void) {
  umrt_ctx *ctx;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  umrt_ctx_info info = UMRT_CTX_INFO_INIT;
  params.kv_type = UMRT_KV_BF16;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  CHECK_OK(umrt_ctx_info_get(ctx, &info));
  CHECK_EQUAL(2 * 2 * 2 * 16 * 2, info.kv_bytes_per_token);
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  umrt_ctx_free(ctx);
  params.kv_type = UMRT_KV_Q4_G32;
  CHECK_FAILS(UMRT_UNSUPPORTED, "16 dimensions", umrt_ctx_new(model, &params, &ctx));
  params.kv_type = UMRT_KV_Q4_G32 + 1;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "kv_type", umrt_ctx_new(model, &params, &ctx));
}

static void activations_have_eight_bits_or_as_many_as_suit(void) {
  umrt_ctx *ctx;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.activations = UMRT_ACTIVATIONS_EIGHT_BITS;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  umrt_ctx_free(ctx);
  params.activations = UMRT_ACTIVATIONS_EIGHT_BITS + 1;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "activations", umrt_ctx_new(model, &params, &ctx));
}

static void counters_and_memory_add_up(void) {
  umrt_ctx *ctx = new_context(model, 100);
  umrt_ctx_info info = UMRT_CTX_INFO_INIT;
  umrt_perf perf = UMRT_PERF_INIT;
  umrt_memory_info own = UMRT_MEMORY_INFO_INIT;
  CHECK_OK(umrt_ctx_info_get(ctx, &info));
  CHECK_EQUAL(100, info.n_ctx);
  CHECK_EQUAL(1, info.n_seq);
  CHECK_EQUAL(VOCAB, info.vocab_size);
  /* Keys and values of 2 layers, 2 heads of 16 floats. */
  CHECK_EQUAL(2 * 2 * 2 * 16 * 4, info.kv_bytes_per_token);
  CHECK_OK(eval_tokens(ctx, prompt.ids, prompt.n));
  CHECK_OK(eval_tokens(ctx, prompt.ids, 1));
  CHECK_OK(eval_tokens(ctx, prompt.ids, 1));
  CHECK_OK(umrt_ctx_perf(ctx, &perf));
  CHECK_EQUAL(prompt.n, perf.n_prefill_tokens);
  CHECK_EQUAL(2, perf.n_decode_tokens);
  CHECK_EQUAL(3, perf.n_evals);
  CHECK(perf.prefill_ns > 0 && perf.decode_ns > 0);
  CHECK_OK(umrt_ctx_memory_stats(ctx, &own));
  CHECK_EQUAL(length_of(ctx) * info.kv_bytes_per_token, own.kv_used_bytes);
  CHECK(own.kv_reserved_bytes >= own.kv_used_bytes);
  CHECK(own.kv_reserved_bytes <= info.n_ctx * info.kv_bytes_per_token);
  CHECK_EQUAL(VOCAB * sizeof(float), own.logits_bytes);
  const umrt_memory_info all = process_memory();
  CHECK_EQUAL(own.kv_used_bytes, all.kv_used_bytes);
  CHECK_EQUAL(own.kv_reserved_bytes, all.kv_reserved_bytes);
  CHECK_EQUAL(own.logits_bytes, all.logits_bytes);
  CHECK(all.mlx_active_bytes >= own.logits_bytes);
  CHECK(all.mlx_peak_bytes >= all.mlx_active_bytes);
  CHECK(all.usable_bytes <= all.physical_bytes);
  CHECK(all.usable_reason != NULL && all.usable_reason[0] != '\0');
  umrt_ctx_free(ctx);
}

int main(void) {
  model = open_model(TOKEN_MODEL);
  prompt = read_ids(TOKEN_MODEL "/fixture.json", "prompt_ids");
  greedy_decoding_gives_the_tokens_of_transformers();
  logits_are_the_same_copied_and_viewed();
  seeds_decide_which_tokens_are_drawn();
  penalties_see_accepted_tokens();
  refused_batches_change_nothing();
  a_cancelled_evaluation_changes_nothing();
  absurd_contexts_are_over_budget();
  trimmed_sequences_go_on_where_they_were_cut();
  sequences_do_not_see_each_other();
  forks_share_what_they_have_in_common();
  keys_and_values_take_the_bytes_of_their_type();
  activations_have_eight_bits_or_as_many_as_suit();
  counters_and_memory_add_up();
  umrt_model_free(model);
  return check_summary(__FILE__);
}
