/* What fits is known before anything is opened, and what does not is refused
 * with a message that says by how much and what would. */

#include "fixtures.h"

enum { KIB = 1024, MIB = 1024 * KIB };

static umrt_memory_estimate estimate(uint32_t n_ctx, uint32_t n_seq) {
  umrt_memory_estimate found = UMRT_MEMORY_ESTIMATE_INIT;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = n_ctx;
  params.n_seq = n_seq;
  CHECK_OK(umrt_model_estimate(CHAT_MODEL, NULL, &params, &found));
  return found;
}

static umrt_memory_budget_info budget(void) {
  umrt_memory_budget_info info = UMRT_MEMORY_BUDGET_INFO_INIT;
  CHECK_OK(umrt_memory_budget_get(&info));
  return info;
}

static void set_budget(uint64_t bytes) {
  umrt_memory_budget wanted = UMRT_MEMORY_BUDGET_INIT;
  wanted.bytes = bytes;
  CHECK_OK(umrt_memory_budget_set(&wanted));
}

static umrt_status new_ctx(const umrt_model *model, uint32_t n_ctx, uint32_t n_seq,
                           uint64_t memory_limit, umrt_ctx **ctx) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = n_ctx;
  params.n_seq = n_seq;
  params.memory_limit = memory_limit;
  return umrt_ctx_new(model, &params, ctx);
}

static void an_estimate_says_what_opening_takes(void) {
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  const umrt_memory_estimate found = estimate(1024, 2);
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx_info info = UMRT_CTX_INFO_INIT;
  umrt_ctx *ctx;
  CHECK_OK(new_ctx(model, 1024, 2, 0, &ctx));
  CHECK_OK(umrt_ctx_info_get(ctx, &info));
  CHECK_OK(umrt_model_memory_stats(model, &memory));
  CHECK_EQUAL(1, found.fits);
  CHECK_EQUAL(0, found.missing_bytes);
  CHECK_EQUAL(memory.weights_mapped_bytes, found.weights_mapped_bytes);
  CHECK_EQUAL(memory.weights_copied_bytes, found.weights_copied_bytes);
  CHECK_EQUAL(info.kv_bytes_per_token, found.kv_bytes_per_token);
  CHECK_EQUAL(2 * 1024 * info.kv_bytes_per_token, found.kv_bytes);
  CHECK_EQUAL(2 * 2 * 4 * info.vocab_size, found.logits_bytes);
  CHECK_EQUAL(found.weights_mapped_bytes, found.weights_float16_bytes);
  CHECK(found.usable_reason != NULL && strlen(found.usable_reason) > 0);
  CHECK(found.max_n_ctx >= 1024);
  /* What was reserved is what was estimated. */
  CHECK_EQUAL(found.total_bytes, budget().taken_bytes);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  CHECK_EQUAL(0, budget().taken_bytes);
}

static void what_does_not_fit_is_refused_and_what_would_is_named(void) {
  umrt_model *model = open_model(CHAT_MODEL);
  const umrt_memory_estimate small = estimate(256, 1);
  const uint64_t room = budget().taken_bytes + small.kv_bytes + small.logits_bytes +
                        small.scratch_prefill_bytes + small.mlx_cache_bytes;
  umrt_ctx *ctx;
  char would_fit[64];
  set_budget(room + 512 * small.kv_bytes_per_token);
  const umrt_memory_estimate large = estimate(4096, 1);
  CHECK_EQUAL(0, large.fits);
  CHECK(large.missing_bytes > 0);
  CHECK_FAILS(UMRT_OVER_BUDGET, "memory budget that was set", new_ctx(model, 4096, 1, 0, &ctx));
  CHECK(ctx == NULL);
  CHECK_CONTAINS("more than is left", umrt_last_error());
  const char *instead = strstr(umrt_last_error(), "n_ctx ");
  REQUIRE(CHECK(instead != NULL));
  const uint32_t n_ctx = (uint32_t)strtoul(instead + strlen("n_ctx "), NULL, 10);
  snprintf(would_fit, sizeof would_fit, "n_ctx %u would fit", n_ctx);
  CHECK_CONTAINS(would_fit, umrt_last_error());
  CHECK(n_ctx >= 256 && n_ctx < 4096);
  CHECK_STATUS(UMRT_OVER_BUDGET, new_ctx(model, n_ctx + 256, 1, 0, &ctx));
  CHECK_OK(new_ctx(model, n_ctx, 1, 0, &ctx));
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  CHECK_OK(umrt_memory_budget_set(NULL));
}

static void two_contexts_share_the_budget(void) {
  umrt_model *model = open_model(CHAT_MODEL);
  const uint64_t before = budget().taken_bytes;
  umrt_ctx *first, *second;
  CHECK_OK(new_ctx(model, 4096, 4, 0, &first));
  const uint64_t both = before + (budget().taken_bytes - before) * 3 / 2;
  set_budget(both);
  CHECK_FAILS(UMRT_OVER_BUDGET, "are taken", new_ctx(model, 4096, 4, 0, &second));
  umrt_ctx_free(first);
  CHECK_OK(new_ctx(model, 4096, 4, 0, &second));
  umrt_ctx_free(second);
  umrt_model_free(model);
  CHECK_OK(umrt_memory_budget_set(NULL));
}

static void pinned_models_count_beside_the_others(void) {
  umrt_model_policy pinned = UMRT_MODEL_POLICY_INIT;
  umrt_model *first = open_model(CHAT_MODEL);
  const uint64_t weights = estimate(256, 1).weights_mapped_bytes;
  const uint64_t one = budget().taken_bytes;
  umrt_model *second = open_model(CHAT_MODEL);
  const uint64_t both = budget().taken_bytes;
  /* They take turns: of the second only the tables are added. */
  CHECK_EQUAL(one - weights, both - one);
  CHECK_EQUAL(0, budget().pinned_bytes);
  set_budget(both + weights - 1);
  pinned.pinned = 1;
  CHECK_FAILS(UMRT_OVER_BUDGET, "pinned", umrt_model_policy_set(first, &pinned));
  CHECK_EQUAL(0, budget().pinned_bytes);
  set_budget(both + weights);
  CHECK_OK(umrt_model_policy_set(first, &pinned));
  CHECK_EQUAL(weights, budget().pinned_bytes);
  CHECK_EQUAL(both + weights, budget().taken_bytes);
  CHECK_OK(umrt_model_policy_set(first, NULL));
  CHECK_EQUAL(0, budget().pinned_bytes);
  CHECK_EQUAL(both, budget().taken_bytes);
  umrt_model_free(second);
  umrt_model_free(first);
  CHECK_OK(umrt_memory_budget_set(NULL));
}

static void weights_beyond_the_budget_need_permission_to_be_paged(void) {
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  umrt_model *model;
  set_budget(estimate(256, 1).weights_mapped_bytes - 1);
  CHECK_FAILS(UMRT_OVER_BUDGET, "paging", umrt_model_open(CHAT_MODEL, &params, &model));
  CHECK(model == NULL);
  CHECK_OK(umrt_memory_budget_set(NULL));
  params.memory_limit = 1000;
  CHECK_FAILS(UMRT_OVER_BUDGET, "memory_limit", umrt_model_open(CHAT_MODEL, &params, &model));
  params.memory_limit = 0;
  params.flags = UMRT_MODEL_ALLOW_PAGING;
  CHECK_OK(umrt_model_open(CHAT_MODEL, &params, &model));
  CHECK_EQUAL(0, budget().mapped_bytes);
  CHECK(budget().paged_bytes > 0);
  umrt_model_free(model);
  params.flags = 2;
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags", umrt_model_open(CHAT_MODEL, &params, &model));
}

static void a_context_stays_within_its_own_limit(void) {
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx *ctx;
  CHECK_FAILS(UMRT_OVER_BUDGET, "its memory_limit of 64 KiB",
              new_ctx(model, 4096, 1, 64 * KIB, &ctx));
  CHECK_OK(new_ctx(model, 4096, 1, 64 * MIB, &ctx));
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

static void logits_of_too_many_tokens_are_refused(void) {
  enum { N = 400 };
  int32_t tokens[N];
  uint8_t wanted[N];
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_eval_result result = UMRT_EVAL_RESULT_INIT;
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx *ctx = new_context(model, 512);
  memset(wanted, 1, sizeof wanted);
  for (int i = 0; i < N; i++) tokens[i] = i % 100;
  batch.tokens = tokens;
  batch.n_tokens = N;
  batch.want_logits = wanted;
  set_budget(budget().taken_bytes + 4 * KIB);
  CHECK_FAILS(UMRT_OVER_BUDGET, "fewer at a time", umrt_eval(ctx, &batch, NULL, &result));
  CHECK_EQUAL(0, length_of(ctx));
  batch.want_logits = NULL;
  CHECK_OK(umrt_eval(ctx, &batch, NULL, &result));
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(umrt_memory_budget_set(NULL));
  const uint64_t before = budget().private_bytes;
  batch.want_logits = wanted;
  CHECK_OK(umrt_eval(ctx, &batch, NULL, &result));
  CHECK_EQUAL(N, result.n_logits);
  CHECK(budget().private_bytes > before);
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  batch.want_logits = NULL;
  CHECK_OK(umrt_eval(ctx, &batch, NULL, &result));
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(umrt_eval(ctx, &batch, NULL, &result));
  CHECK_EQUAL(before, budget().private_bytes);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

static void a_budget_makes_sense_or_is_refused(void) {
  umrt_memory_budget wanted = UMRT_MEMORY_BUDGET_INIT;
  const double bad[] = {-0.5, 1.5};
  for (int i = 0; i < 2; i++) {
    wanted.fraction = bad[i];
    CHECK_FAILS(UMRT_INVALID_ARGUMENT, "at most 1", umrt_memory_budget_set(&wanted));
  }
  wanted.fraction = 0.5;
  CHECK_OK(umrt_memory_budget_set(&wanted));
  CHECK(budget().usable_bytes <= budget().physical_bytes / 2);
  wanted.bytes = 1;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "not both", umrt_memory_budget_set(&wanted));
  CHECK_OK(umrt_memory_budget_set(NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_memory_budget_get(NULL));
}

static void numbers_are_enough_for_a_plan(void) {
  umrt_numbers numbers = UMRT_NUMBERS_INIT;
  umrt_numbers_result plan = UMRT_NUMBERS_RESULT_INIT;
  numbers.n_parameters = 70000000000;
  numbers.bits_per_weight = 4;
  numbers.n_layers = 80;
  numbers.n_kv_heads = 8;
  numbers.head_dim = 128;
  numbers.n_ctx = 8192;
  numbers.memory_bytes = 64000000000;
  numbers.gigabytes_per_second = 546;
  CHECK_OK(umrt_numbers_plan(&numbers, &plan));
  CHECK_EQUAL(35000000000, plan.weight_bytes);
  CHECK_EQUAL(2684354560, plan.kv_bytes);
  CHECK_EQUAL(48000000000, plan.usable_bytes);
  CHECK_EQUAL(1, plan.fits);
  CHECK(plan.tokens_per_second > 15.59 && plan.tokens_per_second < 15.61);
  numbers.bits_per_weight = 8;
  CHECK_OK(umrt_numbers_plan(&numbers, &plan));
  CHECK_EQUAL(0, plan.fits);
  CHECK_EQUAL(0, plan.max_n_ctx);
  numbers.fraction = 2;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "fraction", umrt_numbers_plan(&numbers, &plan));
}

int main(void) {
  umrt_memory_estimate found = UMRT_MEMORY_ESTIMATE_INIT;
  CHECK_FAILS(UMRT_NOT_FOUND, "nowhere", umrt_model_estimate("nowhere", NULL, NULL, &found));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "path", umrt_model_estimate(NULL, NULL, NULL, &found));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_model_estimate(CHAT_MODEL, NULL, NULL, NULL));
  an_estimate_says_what_opening_takes();
  what_does_not_fit_is_refused_and_what_would_is_named();
  two_contexts_share_the_budget();
  pinned_models_count_beside_the_others();
  weights_beyond_the_budget_need_permission_to_be_paged();
  a_context_stays_within_its_own_limit();
  logits_of_too_many_tokens_are_refused();
  a_budget_makes_sense_or_is_refused();
  numbers_are_enough_for_a_plan();
  return check_summary(__FILE__);
}
