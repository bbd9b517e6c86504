/* Where weights are, giving memory back, memory pressure, and diagnosis. */

#include "fixtures.h"

static umrt_model_params loaded_by(uint32_t load) {
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  params.load = load;
  return params;
}

static umrt_memory_info memory_of(const umrt_model *model) {
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  CHECK_OK(umrt_model_memory_stats(model, &memory));
  return memory;
}

static void weights_are_mapped_or_private(void) {
  const uint32_t loads[] = {UMRT_LOAD_MAP, UMRT_LOAD_READ, UMRT_LOAD_DIRECT};
  for (size_t i = 0; i < 3; i++) {
    umrt_model *model;
    const umrt_model_params params = loaded_by(loads[i]);
    const umrt_status status = umrt_model_open(CHAT_MODEL, &params, &model);
    if (loads[i] == UMRT_LOAD_DIRECT && status == UMRT_UNSUPPORTED) continue;
    REQUIRE(CHECK_OK(status));
    const umrt_memory_info memory = memory_of(model);
    CHECK_EQUAL(loads[i] == UMRT_LOAD_MAP, memory.weights_mapped_bytes > 0);
    CHECK_EQUAL(loads[i] != UMRT_LOAD_MAP, memory.weights_copied_bytes > 0);
    CHECK_EQUAL(memory.weights_copied_bytes, memory.total_bytes);
    umrt_model_free(model);
  }
  umrt_model *model;
  const umrt_model_params params = loaded_by(3);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "load 3", umrt_model_open(CHAT_MODEL, &params, &model));
}

static void count(size_t done, size_t total, void *userdata) {
  size_t *last = userdata;
  CHECK(done > last[0] && done <= total);
  last[0] = done;
  last[1] = total;
}

static void weights_come_and_go(const umrt_model *model) {
  size_t last[2] = {0, 0};
  umrt_residency_params params = UMRT_RESIDENCY_PARAMS_INIT;
  params.progress = count;
  params.progress_userdata = last;
  CHECK_OK(umrt_model_residency(model, UMRT_RESIDENCY_WARM, &params));
  CHECK(last[0] > 0 && last[0] == last[1]);
  CHECK(memory_of(model).weights_resident_bytes >= memory_of(model).weights_mapped_bytes);
  CHECK_OK(umrt_model_residency(model, UMRT_RESIDENCY_RELEASED, NULL));
  CHECK_OK(umrt_model_residency(model, UMRT_RESIDENCY_MAPPED, NULL));

  umrt_cancel *cancel;
  CHECK_OK(umrt_cancel_new(&cancel));
  umrt_cancel_trigger(cancel);
  params.cancel = cancel;
  CHECK_STATUS(UMRT_CANCELLED, umrt_model_residency(model, UMRT_RESIDENCY_WARM, &params));
  umrt_cancel_free(cancel);

  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "residency 4", umrt_model_residency(model, 4, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "model handle", umrt_model_residency(NULL, 0, NULL));
  params.cancel = NULL;
  params.flags = 64;
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags", umrt_model_residency(model, 0, &params));
}

static void policies_are_checked(const umrt_model *model) {
  umrt_trim_result trimmed = UMRT_TRIM_RESULT_INIT;
  umrt_model_policy policy = UMRT_MODEL_POLICY_INIT;
  policy.pinned = 1;
  CHECK_OK(umrt_model_policy_set(model, &policy));
  CHECK_OK(umrt_model_residency(model, UMRT_RESIDENCY_WARM, NULL));
  CHECK_OK(umrt_memory_trim(UMRT_TRIM_IDLE_MODELS, &trimmed));
  CHECK_EQUAL(0, trimmed.n_models);
  CHECK_OK(umrt_model_policy_set(model, NULL));
  CHECK_OK(umrt_memory_trim(UMRT_TRIM_TIMED_OUT_MODELS, &trimmed));
  CHECK_EQUAL(0, trimmed.n_models);
  CHECK_OK(umrt_memory_trim(UMRT_TRIM_IDLE_MODELS, &trimmed));
  CHECK_EQUAL(1, trimmed.n_models);
  policy.pinned = 2;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "pinned is 2", umrt_model_policy_set(model, &policy));
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags", umrt_memory_trim(64, NULL));
}

typedef struct {
  uint32_t levels[4];
  uint64_t given_back;
  size_t n;
} heard_levels;

static void hear(uint32_t level, uint64_t given_back_bytes, void *userdata) {
  heard_levels *heard = userdata;
  if (heard->n < 4) heard->levels[heard->n++] = level;
  heard->given_back += given_back_bytes;
}

static void pressure_is_acted_on_and_told(const umrt_model *model) {
  heard_levels heard = {.n = 0};
  umrt_trim_result trimmed = UMRT_TRIM_RESULT_INIT;
  umrt_ctx *there = new_context(model, 0);
  umrt_ctx *another;
  const int32_t token = 35;
  CHECK_OK(umrt_memory_pressure_callback(hear, &heard, 0));
  CHECK_OK(umrt_memory_pressure_notify(UMRT_PRESSURE_CRITICAL, &trimmed));
  CHECK_EQUAL(trimmed.private_bytes + trimmed.model_bytes, heard.given_back);
  CHECK_EQUAL(0, process_memory().mlx_cache_bytes);
  CHECK_FAILS(UMRT_OVER_BUDGET, "short of memory", umrt_ctx_new(model, NULL, &another));
  CHECK_OK(eval_tokens(there, &token, 1));
  CHECK_OK(umrt_memory_pressure_notify(UMRT_PRESSURE_NORMAL, NULL));
  CHECK_OK(umrt_ctx_new(model, NULL, &another));
  CHECK_OK(umrt_memory_pressure_callback(NULL, NULL, 0));
  CHECK_OK(umrt_memory_pressure_notify(UMRT_PRESSURE_WARNING, NULL));
  CHECK_EQUAL(2, heard.n);
  CHECK_EQUAL(UMRT_PRESSURE_CRITICAL, heard.levels[0]);
  CHECK_EQUAL(UMRT_PRESSURE_NORMAL, heard.levels[1]);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "level 9", umrt_memory_pressure_notify(9, NULL));
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags", umrt_memory_pressure_callback(hear, &heard, 64));
  umrt_ctx_free(there);
  umrt_ctx_free(another);
}

static void memory_is_diagnosed(const umrt_model *model) {
  const int32_t tokens[] = {35, 36, 37, 38};
  umrt_memory_diagnosis diagnosis = UMRT_MEMORY_DIAGNOSIS_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_ctx *ctx = new_context(model, 4);
  CHECK_OK(eval_tokens(ctx, tokens, 4));
  CHECK_OK(umrt_memory_diagnose(ctx, &diagnosis));
  CHECK(diagnosis.findings & 1u << diagnosis.finding);
  CHECK(diagnosis.findings & 1u << UMRT_FINDING_CONTEXT_NEARLY_FULL);
  CHECK_TEXT(umrt_finding_text(diagnosis.finding), diagnosis.text);
  CHECK_TEXT(umrt_finding_advice(diagnosis.finding), diagnosis.advice);
  CHECK(umrt_finding_text(99) == NULL && umrt_finding_advice(99) == NULL);
  CHECK_OK(umrt_memory_diagnose(NULL, &diagnosis));
  CHECK_EQUAL(0, diagnosis.n_ctx);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_memory_diagnose(ctx, NULL));

  CHECK_OK(umrt_seq_memory_stats(ctx, 0, &memory));
  CHECK(memory.kv_used_bytes > 0 && memory.kv_used_bytes <= memory.kv_reserved_bytes);
  CHECK_EQUAL(memory.kv_reserved_bytes, memory.total_bytes);
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "sequence 1", umrt_seq_memory_stats(ctx, 1, &memory));
  umrt_ctx_free(ctx);
}

int main(void) {
  weights_are_mapped_or_private();
  umrt_model *model = open_model(CHAT_MODEL);
  weights_come_and_go(model);
  policies_are_checked(model);
  pressure_is_acted_on_and_told(model);
  memory_is_diagnosed(model);
  umrt_model_free(model);
  return check_summary(__FILE__);
}
