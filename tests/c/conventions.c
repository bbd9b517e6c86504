/* What every function promises: NULL is refused, failures leave a message in
 * their own thread, names and versions are those of the header. */

#include "fixtures.h"

#include <pthread.h>

#define REFUSES(part, call) CHECK_FAILS(UMRT_INVALID_ARGUMENT, part, call)

static void library_functions_refuse_null(void) {
  CHECK_OK(umrt_init(NULL));
  REFUSES("count", umrt_device_count(NULL));
  REFUSES("umrt_device_info", umrt_device_info_get(0, NULL));
  REFUSES("umrt_memory_info", umrt_memory_stats(NULL));
  REFUSES("NULL", umrt_cancel_new(NULL));
}

static void model_functions_refuse_null(const umrt_model *model) {
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  char text[16];
  umrt_model *opened = (umrt_model *)&info;
  REFUSES("path", umrt_model_open(NULL, NULL, &opened));
  CHECK(opened == NULL);
  REFUSES("handle", umrt_model_open(CHAT_MODEL, NULL, NULL));
  REFUSES("path", umrt_model_inspect(NULL, &info));
  REFUSES("umrt_model_info", umrt_model_inspect(CHAT_MODEL, NULL));
  REFUSES("model", umrt_model_info_get(NULL, &info));
  REFUSES("umrt_model_info", umrt_model_info_get(model, NULL));
  REFUSES("model", umrt_model_memory_stats(NULL, &memory));
  REFUSES("umrt_memory_info", umrt_model_memory_stats(model, NULL));
  REFUSES("model", umrt_model_metadata(NULL, "model_type", text, sizeof text, NULL));
  REFUSES("key", umrt_model_metadata(model, NULL, text, sizeof text, NULL));
  CHECK_OK(umrt_model_metadata(model, "model_type", text, sizeof text, NULL));
  CHECK_TEXT("llama", text);
}

static void text_functions_refuse_null(const umrt_model *model) {
  const int32_t token = 1;
  int32_t ids[4];
  char text[64];
  const char *certain;
  size_t length;
  umrt_token_info info = UMRT_TOKEN_INFO_INIT;
  umrt_detok *detok = NULL;
  REFUSES("model", umrt_tokenize(NULL, "a", 1, 0, ids, 4, &length));
  REFUSES("text", umrt_tokenize(model, NULL, 1, 0, ids, 4, &length));
  REFUSES("model", umrt_detokenize(NULL, &token, 1, 0, text, sizeof text, &length));
  REFUSES("tokens", umrt_detokenize(model, NULL, 1, 0, text, sizeof text, &length));
  REFUSES("model", umrt_token_info_get(NULL, 1, &info));
  REFUSES("umrt_token_info", umrt_token_info_get(model, 1, NULL));
  REFUSES("model", umrt_special_token(NULL, UMRT_SPECIAL_BOS, ids));
  REFUSES("token", umrt_special_token(model, UMRT_SPECIAL_BOS, NULL));
  REFUSES("model", umrt_chat_render(NULL, "{}", 2, text, sizeof text, &length));
  REFUSES("json", umrt_chat_render(model, NULL, 2, text, sizeof text, &length));
  REFUSES("model", umrt_detok_new(NULL, &detok));
  REFUSES("handle", umrt_detok_new(model, NULL));
  REFUSES("detok", umrt_detok_push(NULL, 1, &certain, &length));
  REFUSES("detok", umrt_detok_finish(NULL, &certain, &length));
  CHECK_OK(umrt_detok_new(model, &detok));
  CHECK_OK(umrt_detok_push(detok, 35, NULL, NULL));
  CHECK_OK(umrt_detok_finish(detok, NULL, NULL));
  umrt_detok_free(detok);
}

static void context_functions_refuse_null(const umrt_model *model, umrt_ctx *ctx) {
  umrt_ctx *made;
  umrt_ctx_info info = UMRT_CTX_INFO_INIT;
  umrt_perf perf = UMRT_PERF_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_eval_result result = UMRT_EVAL_RESULT_INIT;
  uint32_t n_tokens;
  float logits[4];
  const float *view;
  REFUSES("model", umrt_ctx_new(NULL, NULL, &made));
  CHECK(made == NULL);
  REFUSES("handle", umrt_ctx_new(model, NULL, NULL));
  REFUSES("context", umrt_ctx_info_get(NULL, &info));
  REFUSES("umrt_ctx_info", umrt_ctx_info_get(ctx, NULL));
  REFUSES("context", umrt_ctx_perf(NULL, &perf));
  REFUSES("umrt_perf", umrt_ctx_perf(ctx, NULL));
  REFUSES("context", umrt_ctx_memory_stats(NULL, &memory));
  REFUSES("umrt_memory_info", umrt_ctx_memory_stats(ctx, NULL));
  REFUSES("context", umrt_seq_length(NULL, 0, &n_tokens));
  REFUSES("n_tokens", umrt_seq_length(ctx, 0, NULL));
  REFUSES("context", umrt_seq_trim(NULL, 0, 0));
  REFUSES("batch", umrt_eval(ctx, NULL, NULL, &result));
  batch.n_tokens = 1;
  REFUSES("batch.tokens", umrt_eval(ctx, &batch, NULL, &result));
  batch.tokens = (const int32_t[]){1};
  REFUSES("context", umrt_eval(NULL, &batch, NULL, &result));
  CHECK_OK(umrt_eval(ctx, &batch, NULL, NULL));
  REFUSES("context", umrt_logits(NULL, 0, logits, 4, NULL));
  CHECK_STATUS(UMRT_NO_SPACE, umrt_logits(ctx, 0, NULL, 0, NULL));
  REFUSES("context", umrt_logits_view(NULL, 0, &view));
  REFUSES("logits", umrt_logits_view(ctx, 0, NULL));
}

static void sampling_functions_refuse_null(umrt_ctx *ctx) {
  umrt_sampler *sampler = NULL;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  int32_t token;
  REFUSES("handle", umrt_sampler_new(NULL, NULL));
  REQUIRE(CHECK_OK(umrt_sampler_new(NULL, &sampler)));
  REFUSES("sampler", umrt_sampler_reset(NULL));
  REFUSES("sampler", umrt_sampler_accept(NULL, 1));
  REFUSES("context", umrt_sample(NULL, sampler, 0, &token));
  REFUSES("sampler", umrt_sample(ctx, NULL, 0, &token));
  REFUSES("token", umrt_sample(ctx, sampler, 0, NULL));
  REFUSES("prompt", umrt_generate(ctx, NULL, NULL, NULL, NULL, NULL));
  params.prompt = "a";
  REFUSES("context", umrt_generate(NULL, &params, NULL, NULL, NULL, NULL));
  params.n_stop = 1;
  REFUSES("stop", umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  params.stop = (const char *const[]){NULL};
  REFUSES("stop", umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  CHECK_EQUAL(1, length_of(ctx));
  umrt_sampler_free(sampler);
}

static void null_handles_are_ignored(void) {
  umrt_cancel_trigger(NULL);
  umrt_cancel_reset(NULL);
  umrt_cancel_free(NULL);
  umrt_model_free(NULL);
  umrt_ctx_free(NULL);
  umrt_detok_free(NULL);
  umrt_sampler_free(NULL);
  umrt_log_set(NULL, NULL, 0);
}

static void statuses_have_the_names_of_the_header(void) {
#define CHECK_NAME(name) CHECK_TEXT(#name, umrt_status_name(UMRT_##name))
  CHECK_NAME(OK);
  CHECK_NAME(INVALID_ARGUMENT);
  CHECK_NAME(NOT_FOUND);
  CHECK_NAME(IO);
  CHECK_NAME(FORMAT);
  CHECK_NAME(UNSUPPORTED);
  CHECK_NAME(OUT_OF_MEMORY);
  CHECK_NAME(OVER_BUDGET);
  CHECK_NAME(NO_SPACE);
  CHECK_NAME(BUSY);
  CHECK_NAME(CANCELLED);
  CHECK_NAME(BACKEND);
  CHECK_NAME(PANIC);
  CHECK_NAME(INTERNAL);
  CHECK_NAME(DEADLINE_EXCEEDED);
  CHECK_TEXT("UNKNOWN", umrt_status_name(UMRT_DEADLINE_EXCEEDED + 1));
  CHECK_TEXT("UNKNOWN", umrt_status_name(-1));
}

static void versions_are_those_of_the_header(void) {
  int major, minor, patch;
  CHECK_EQUAL(UMRT_ABI_VERSION, umrt_abi_version());
  CHECK_EQUAL(3, sscanf(umrt_version(), "%d.%d.%d", &major, &minor, &patch));
}

static void init_macros_set_the_size_and_nothing_else(void) {
  const umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  umrt_generate_params zeroed;
  memset(&zeroed, 0, sizeof zeroed);
  zeroed.struct_size = sizeof zeroed;
  CHECK(memcmp(&params, &zeroed, sizeof params) == 0);
  umrt_memory_info stats = UMRT_MEMORY_INFO_INIT;
  CHECK_EQUAL(sizeof stats, stats.struct_size);
  /* They are expressions, too. */
  stats = UMRT_MEMORY_INFO_INIT;
  CHECK_EQUAL(0, stats.usable_bytes);
}

static void devices_are_described(void) {
  size_t count = 0;
  umrt_device_info info = UMRT_DEVICE_INFO_INIT;
  CHECK_OK(umrt_device_count(&count));
  CHECK(count >= 1);
  CHECK_OK(umrt_device_info_get(0, &info));
  CHECK_EQUAL(UMRT_DEVICE_CPU, info.kind);
  CHECK_CONTAINS("MLX", info.name);
  CHECK(info.usable_bytes > 0);
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_device_info_get(count, &info));
}

static void *fail_elsewhere(void *unused) {
  umrt_model *model;
  CHECK_TEXT("", umrt_last_error());
  CHECK_FAILS(UMRT_NOT_FOUND, "elsewhere", umrt_model_open("no/elsewhere", NULL, &model));
  return unused;
}

static void last_error_belongs_to_its_thread_and_outlives_success(void) {
  pthread_t thread;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  CHECK_STATUS(UMRT_NOT_FOUND, umrt_model_inspect("no/here", &info));
  const char *message = umrt_last_error();
  pthread_create(&thread, NULL, fail_elsewhere, NULL);
  pthread_join(thread, NULL);
  CHECK_OK(umrt_model_inspect(CHAT_MODEL, &info));
  CHECK(message == umrt_last_error());
  CHECK_CONTAINS("no/here", message);
}

int main(void) {
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx *ctx = new_context(model, 0);
  library_functions_refuse_null();
  model_functions_refuse_null(model);
  text_functions_refuse_null(model);
  context_functions_refuse_null(model, ctx);
  sampling_functions_refuse_null(ctx);
  null_handles_are_ignored();
  statuses_have_the_names_of_the_header();
  versions_are_those_of_the_header();
  init_macros_set_the_size_and_nothing_else();
  devices_are_described();
  last_error_belongs_to_its_thread_and_outlives_success();
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return check_summary(__FILE__);
}
