/* Structures grow with versions: an older caller's shorter one and a newer
 * caller's longer one both work. */

#include "fixtures.h"

#include <stddef.h>

static umrt_model *model;
static umrt_ctx *ctx;

static umrt_status init(void *structure) { return umrt_init(structure); }

static umrt_status open_and_free(void *structure) {
  umrt_model *opened;
  const umrt_status status = umrt_model_open(CHAT_MODEL, structure, &opened);
  umrt_model_free(opened);
  return status;
}

static umrt_status new_ctx_and_free(void *structure) {
  umrt_ctx *made;
  const umrt_status status = umrt_ctx_new(model, structure, &made);
  umrt_ctx_free(made);
  return status;
}

static umrt_status new_sampler_and_free(void *structure) {
  umrt_sampler *made;
  const umrt_status status = umrt_sampler_new(structure, &made);
  umrt_sampler_free(made);
  return status;
}

static umrt_status eval_batch(void *structure) {
  return umrt_eval(ctx, structure, NULL, NULL);
}

static umrt_status generate(void *structure) {
  return umrt_generate(ctx, structure, NULL, NULL, NULL, NULL);
}

static umrt_status new_scheduler_and_free(void *structure) {
  umrt_scheduler *made;
  const umrt_status status = umrt_scheduler_new(ctx, structure, &made);
  umrt_scheduler_free(made);
  return status;
}

static umrt_status submit(void *structure) {
  umrt_scheduler *scheduler;
  CHECK_OK(umrt_scheduler_new(ctx, NULL, &scheduler));
  const umrt_status status = umrt_scheduler_submit(scheduler, structure, NULL);
  umrt_scheduler_free(scheduler);
  return status;
}

static umrt_status make_warm(void *structure) {
  return umrt_model_residency(model, UMRT_RESIDENCY_WARM, structure);
}

static umrt_status set_policy(void *structure) { return umrt_model_policy_set(model, structure); }

/* The bytes from `older_size` on came with a later version. */
typedef struct {
  const char *name;
  const void *valid;
  size_t size;
  size_t older_size;
  umrt_status (*call)(void *);
} parameter;

enum { LONGER = 24, MAX_SIZE = 512 };

typedef union {
  unsigned char bytes[MAX_SIZE];
  uint32_t struct_size;
  void *alignment;
} space;

/* All of it poisoned but the first `n_known` bytes of a valid structure. */
static space poisoned(const parameter *p, size_t n_known) {
  space copy;
  memset(&copy, 0xee, sizeof copy);
  memcpy(copy.bytes, p->valid, n_known);
  return copy;
}

static void parameters_grow(const parameter *p) {
  const uint32_t absurd[] = {0, 3, 65537, UINT32_MAX};
  for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++) {
    space uninitialized = poisoned(p, p->size);
    uninitialized.struct_size = absurd[i];
    CHECK_FAILS(UMRT_INVALID_ARGUMENT, p->name, p->call(&uninitialized));
    CHECK_CONTAINS("struct_size", umrt_last_error());
  }

  space older = poisoned(p, p->older_size);
  older.struct_size = (uint32_t)p->older_size;
  if (!CHECK_OK(p->call(&older))) fprintf(stderr, "  of %s\n", p->name);

  space newer = poisoned(p, p->size);
  newer.struct_size = (uint32_t)p->size + LONGER;
  memset(newer.bytes + p->size, 0, LONGER);
  if (!CHECK_OK(p->call(&newer))) fprintf(stderr, "  of %s\n", p->name);
  newer.bytes[p->size + LONGER - 1] = 1;
  CHECK_FAILS(UMRT_UNSUPPORTED, p->name, p->call(&newer));
}

static void all_parameters_grow(void) {
  const int32_t token = 35;
  umrt_init_params init_params = UMRT_INIT_PARAMS_INIT;
  umrt_model_params model_params = UMRT_MODEL_PARAMS_INIT;
  umrt_ctx_params ctx_params = UMRT_CTX_PARAMS_INIT;
  umrt_sampler_params sampler_params = UMRT_SAMPLER_PARAMS_INIT;
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_generate_params generate_params = UMRT_GENERATE_PARAMS_INIT;
  umrt_scheduler_params scheduler_params = UMRT_SCHEDULER_PARAMS_INIT;
  umrt_request request = UMRT_REQUEST_INIT;
  umrt_residency_params residency_params = UMRT_RESIDENCY_PARAMS_INIT;
  umrt_model_policy policy = UMRT_MODEL_POLICY_INIT;
  batch.tokens = &token;
  batch.n_tokens = 1;
  generate_params.prompt = "a";
  generate_params.max_tokens = 1;
  request.params = &generate_params;
#define PARAMETER(type, valid, later, call) \
  {#type, &valid, sizeof(type), offsetof(type, later), call}
  const parameter parameters[] = {
      PARAMETER(umrt_init_params, init_params, mlx_cache_limit, init),
      PARAMETER(umrt_model_params, model_params, progress, open_and_free),
      PARAMETER(umrt_ctx_params, ctx_params, n_threads, new_ctx_and_free),
      PARAMETER(umrt_sampler_params, sampler_params, seed, new_sampler_and_free),
      PARAMETER(umrt_batch, batch, seq_ids, eval_batch),
      PARAMETER(umrt_generate_params, generate_params, stop, generate),
      PARAMETER(umrt_scheduler_params, scheduler_params, step_tokens, new_scheduler_and_free),
      PARAMETER(umrt_request, request, cancel, submit),
      PARAMETER(umrt_residency_params, residency_params, progress, make_warm),
      PARAMETER(umrt_model_policy, policy, priority, set_policy),
  };
  for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++)
    parameters_grow(&parameters[i]);
}

static umrt_status device_info(void *result) { return umrt_device_info_get(0, result); }
static umrt_status memory_stats(void *result) { return umrt_memory_stats(result); }
static umrt_status model_stats(void *result) { return umrt_model_memory_stats(model, result); }
static umrt_status ctx_stats(void *result) { return umrt_ctx_memory_stats(ctx, result); }
static umrt_status seq_stats(void *result) { return umrt_seq_memory_stats(ctx, 0, result); }
static umrt_status diagnose(void *result) { return umrt_memory_diagnose(ctx, result); }

/* With something to give back. */
static umrt_status trim(void *result) {
  umrt_residency_params params = UMRT_RESIDENCY_PARAMS_INIT;
  CHECK_OK(umrt_model_residency(model, UMRT_RESIDENCY_WARM, &params));
  return umrt_memory_trim(0, result);
}

static umrt_status inspect(void *result) { return umrt_model_inspect(CHAT_MODEL, result); }
static umrt_status model_info(void *result) { return umrt_model_info_get(model, result); }
static umrt_status token_info(void *result) { return umrt_token_info_get(model, 35, result); }
static umrt_status ctx_info(void *result) { return umrt_ctx_info_get(ctx, result); }
static umrt_status perf(void *result) { return umrt_ctx_perf(ctx, result); }

static umrt_status eval_one(void *result) {
  umrt_batch batch = UMRT_BATCH_INIT;
  batch.tokens = (const int32_t[]){35};
  batch.n_tokens = 1;
  return umrt_eval(ctx, &batch, NULL, result);
}

static umrt_status generate_one(void *result) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "a";
  params.max_tokens = 1;
  return umrt_generate(ctx, &params, NULL, NULL, NULL, result);
}

/* One request, which takes one step. */
static umrt_status schedule_one(void *step_result, void *request_result) {
  umrt_scheduler *scheduler;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  umrt_request request = UMRT_REQUEST_INIT;
  uint64_t id;
  params.prompt = "a";
  params.max_tokens = 1;
  params.flags = UMRT_GENERATE_IN_SEQ;
  request.params = &params;
  CHECK_OK(umrt_scheduler_new(ctx, NULL, &scheduler));
  CHECK_OK(umrt_scheduler_submit(scheduler, &request, &id));
  umrt_status status = umrt_scheduler_step(scheduler, NULL, step_result);
  if (request_result != NULL) status = umrt_scheduler_result(scheduler, id, request_result);
  umrt_scheduler_free(scheduler);
  return status;
}

static umrt_status step_one(void *result) { return schedule_one(result, NULL); }
static umrt_status request_one(void *result) { return schedule_one(NULL, result); }

typedef struct {
  const char *name;
  size_t size;
  umrt_status (*call)(void *);
} result;

static int all_are(const unsigned char *bytes, size_t n, unsigned char value) {
  while (n > 0 && bytes[n - 1] == value) n--;
  return n == 0;
}

static void results_grow(const result *r) {
  space filled;
  const uint32_t absurd[] = {0, 3, UINT32_MAX};
  for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++) {
    memset(&filled, 0xee, sizeof filled);
    filled.struct_size = absurd[i];
    CHECK_FAILS(UMRT_INVALID_ARGUMENT, r->name, r->call(&filled));
    CHECK(all_are(filled.bytes + 4, sizeof filled - 4, 0xee));
  }

  memset(&filled, 0xee, sizeof filled);
  filled.struct_size = 4;
  CHECK_OK(r->call(&filled));
  CHECK_EQUAL(4, filled.struct_size);
  CHECK(all_are(filled.bytes + 4, sizeof filled - 4, 0xee));

  const size_t longer = r->size + LONGER;
  filled.struct_size = (uint32_t)longer;
  CHECK_OK(r->call(&filled));
  CHECK_EQUAL(longer, filled.struct_size);
  CHECK(!all_are(filled.bytes + 4, r->size - 4, 0xee));
  CHECK(all_are(filled.bytes + r->size, LONGER, 0));
  CHECK(all_are(filled.bytes + longer, sizeof filled - longer, 0xee));
}

static void all_results_grow(void) {
#define RESULT(type, call) {#type, sizeof(type), call}
  const result results[] = {
      RESULT(umrt_device_info, device_info), RESULT(umrt_memory_info, memory_stats),
      RESULT(umrt_memory_info, model_stats), RESULT(umrt_memory_info, ctx_stats),
      RESULT(umrt_model_info, inspect),      RESULT(umrt_model_info, model_info),
      RESULT(umrt_token_info, token_info),   RESULT(umrt_ctx_info, ctx_info),
      RESULT(umrt_perf, perf),               RESULT(umrt_eval_result, eval_one),
      RESULT(umrt_generate_result, generate_one), RESULT(umrt_memory_info, seq_stats),
      RESULT(umrt_step_result, step_one),    RESULT(umrt_request_result, request_one),
      RESULT(umrt_memory_diagnosis, diagnose), RESULT(umrt_trim_result, trim),
  };
  for (size_t i = 0; i < sizeof results / sizeof *results; i++) results_grow(&results[i]);
}

static void a_refused_result_leaves_the_sequence_alone(void) {
  const uint32_t length = length_of(ctx);
  umrt_eval_result eval_result = {.struct_size = 0};
  umrt_generate_result generate_result = {.struct_size = 0};
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, eval_one(&eval_result));
  CHECK_EQUAL(length, length_of(ctx));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, generate_one(&generate_result));
  CHECK_EQUAL(length, length_of(ctx));
}

static void unknown_values_are_refused(void) {
  umrt_model *opened;
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  params.device = 99;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "device 99", umrt_model_open(CHAT_MODEL, &params, &opened));
  params.device = UMRT_DEVICE_AUTO;
  params.precision = 99;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "precision 99",
              umrt_model_open(CHAT_MODEL, &params, &opened));
  params.precision = UMRT_PRECISION_NATIVE;
  params.cpu_ops = 99;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "cpu_ops 99",
              umrt_model_open(CHAT_MODEL, &params, &opened));
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags", umrt_tokenize(model, "a", 1, 64, NULL, 0, NULL));
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags", umrt_detokenize(model, NULL, 0, 64, NULL, 0, NULL));
  umrt_generate_params generate_params = UMRT_GENERATE_PARAMS_INIT;
  generate_params.prompt = "a";
  generate_params.flags = 64;
  CHECK_FAILS(UMRT_UNSUPPORTED, "flags",
              umrt_generate(ctx, &generate_params, NULL, NULL, NULL, NULL));
}

int main(void) {
  model = open_model(CHAT_MODEL);
  ctx = new_context(model, 0);
  all_parameters_grow();
  all_results_grow();
  a_refused_result_leaves_the_sequence_alone();
  unknown_values_are_refused();
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  return check_summary(__FILE__);
}
