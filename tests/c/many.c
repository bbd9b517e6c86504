/* Many generations over one context: they give what each gives alone, and what goes
 * wrong with one leaves the others alone. */

#include "fixtures.h"

#include <pthread.h>
#include <time.h>

#define CHAT_JSON CHAT_MODEL "/chat.json"

enum { N = 5, MAX_TOKENS = 24 };

static umrt_model *model;
static token_list prompts[N];
static char alone[N][4096];

static umrt_ctx *new_ctx(uint32_t n_seq, uint32_t n_ctx) {
  umrt_ctx *ctx = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_seq = n_seq;
  params.n_ctx = n_ctx;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  return ctx;
}

static umrt_scheduler *new_scheduler(umrt_ctx *ctx, uint32_t step_tokens) {
  umrt_scheduler *scheduler = NULL;
  umrt_scheduler_params params = UMRT_SCHEDULER_PARAMS_INIT;
  params.step_tokens = step_tokens;
  REQUIRE(CHECK_OK(umrt_scheduler_new(ctx, &params, &scheduler)));
  return scheduler;
}

static umrt_generate_params params_of(int i) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.tokens = prompts[i].ids;
  params.n_tokens = prompts[i].n;
  params.max_tokens = MAX_TOKENS;
  params.flags = UMRT_GENERATE_IGNORE_END;
  return params;
}

static umrt_request request_of(const umrt_generate_params *params, collected *out) {
  umrt_request request = UMRT_REQUEST_INIT;
  request.params = params;
  request.callback = out ? collect : NULL;
  request.userdata = out;
  return request;
}

/* Different beginnings of the fixture's prompt, and what follows each. */
static void prepare(void) {
  const token_list prompt = read_ids(CHAT_JSON, "prompt_ids");
  umrt_ctx *ctx = new_ctx(1, 0);
  for (int i = 0; i < N; i++) {
    collected out = {.n_calls = 0};
    prompts[i] = prompt;
    prompts[i].n = prompt.n - 7 * (size_t)i;
    const umrt_generate_params params = params_of(i);
    CHECK_OK(umrt_seq_trim(ctx, 0, 0));
    CHECK_OK(umrt_generate(ctx, &params, collect, &out, NULL, NULL));
    strcpy(alone[i], out.text);
  }
  umrt_ctx_free(ctx);
}

/* Steps until nothing is left; returns how often. */
static int run(umrt_scheduler *scheduler) {
  umrt_step_result step = UMRT_STEP_RESULT_INIT;
  int n_steps = 0;
  do {
    REQUIRE(CHECK_OK(umrt_scheduler_step(scheduler, NULL, &step)));
    CHECK_EQUAL(step.n_active, step.n_running + step.n_waiting);
    n_steps++;
  } while (step.n_active > 0);
  return n_steps;
}

static umrt_request_result result_of(umrt_scheduler *scheduler, uint64_t id) {
  umrt_request_result result = UMRT_REQUEST_RESULT_INIT;
  CHECK_OK(umrt_scheduler_result(scheduler, id, &result));
  return result;
}

static void all_sequences_are_empty(umrt_ctx *ctx, int32_t n_seq) {
  uint32_t length;
  for (int32_t seq = 0; seq < n_seq; seq++) {
    CHECK_OK(umrt_seq_length(ctx, seq, &length));
    CHECK_EQUAL(0, length);
  }
}

static void bad_input_is_refused_at_once(void) {
  umrt_ctx *ctx = new_ctx(2, 128);
  umrt_scheduler *scheduler = NULL;
  umrt_request_result result = UMRT_REQUEST_RESULT_INIT;
  umrt_generate_params params = params_of(0);
  umrt_request request = request_of(&params, NULL);
  uint64_t id = 77;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "context", umrt_scheduler_new(NULL, NULL, &scheduler));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_scheduler_new(ctx, NULL, NULL));
  scheduler = new_scheduler(ctx, 0);

#define REFUSED(status, part) \
  CHECK_FAILS(status, part, umrt_scheduler_submit(scheduler, &request, &id))
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "scheduler", umrt_scheduler_submit(NULL, &request, &id));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "params", umrt_scheduler_submit(scheduler, NULL, &id));
  request.params = NULL;
  REFUSED(UMRT_INVALID_ARGUMENT, "params");
  request.params = &params;
  request.struct_size = 0;
  REFUSED(UMRT_INVALID_ARGUMENT, "_INIT");
  request = request_of(&params, NULL);
  request.reserved = 1;
  REFUSED(UMRT_UNSUPPORTED, "reserved");
  request.reserved = 0;
  params.prompt = "a";
  REFUSED(UMRT_INVALID_ARGUMENT, "exactly one");
  params = params_of(0);
  params.n_tokens = 0;
  REFUSED(UMRT_INVALID_ARGUMENT, "no tokens");
  params = params_of(0);
  params.tokens = (const int32_t[]){35, 5000};
  params.n_tokens = 2;
  REFUSED(UMRT_INVALID_ARGUMENT, "5000");
  params = params_of(0);
  params.flags = 1u << 20;
  REFUSED(UMRT_UNSUPPORTED, "flags");
  params = params_of(0);
  params.draft = ctx;
  REFUSED(UMRT_UNSUPPORTED, "draft models");
  params = params_of(0);
  params.ngram = 1;
  REFUSED(UMRT_INVALID_ARGUMENT, "ngram is 1");
  params = params_of(0);
  params.seq = 1;
  REFUSED(UMRT_INVALID_ARGUMENT, "UMRT_GENERATE_IN_SEQ");
  params.flags = UMRT_GENERATE_IN_SEQ;
  params.seq = 2;
  REFUSED(UMRT_INVALID_ARGUMENT, "sequence 2");
  params.seq = -1;
  REFUSED(UMRT_INVALID_ARGUMENT, "sequence -1");
  params = params_of(0);
  params.stop = (const char *const[]){""};
  params.n_stop = 1;
  REFUSED(UMRT_INVALID_ARGUMENT, "stop string 0");
  params = params_of(0);
  params.tokens = NULL;
  params.prompt = "\xff";
  REFUSED(UMRT_INVALID_ARGUMENT, "UTF-8");
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  sampling.top_p = 2;
  params = params_of(0);
  params.sampling = &sampling;
  REFUSED(UMRT_INVALID_ARGUMENT, "top_p");
  int32_t too_many[129];
  for (int i = 0; i < 129; i++) too_many[i] = 35;
  params = params_of(0);
  params.tokens = too_many;
  params.n_tokens = 129;
  REFUSED(UMRT_NO_SPACE, "n_ctx");

  CHECK_EQUAL(77, id);
  CHECK_EQUAL(1, run(scheduler));
  CHECK_OK(umrt_scheduler_step(scheduler, NULL, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "scheduler", umrt_scheduler_step(NULL, NULL, NULL));
  umrt_step_result uninitialized = {.struct_size = 0};
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "_INIT", umrt_scheduler_step(scheduler, NULL, &uninitialized));
  CHECK_FAILS(UMRT_NOT_FOUND, "request 1", umrt_scheduler_cancel(scheduler, 1));
  CHECK_FAILS(UMRT_NOT_FOUND, "request 1", umrt_scheduler_result(scheduler, 1, &result));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "scheduler", umrt_scheduler_cancel(NULL, 1));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "scheduler", umrt_scheduler_result(NULL, 1, &result));
  umrt_scheduler_free(scheduler);
  umrt_scheduler_free(NULL);
  umrt_ctx_free(ctx);
}

static void more_requests_than_sequences_give_what_they_give_alone(void) {
  for (uint32_t step_tokens = 0; step_tokens < 16; step_tokens += 5) {
    umrt_ctx *ctx = new_ctx(2, 0);
    umrt_scheduler *scheduler = new_scheduler(ctx, step_tokens);
    collected out[N];
    uint64_t ids[N];
    memset(out, 0, sizeof out);
    for (int i = 0; i < N; i++) {
      const umrt_generate_params params = params_of(i);
      const umrt_request request = request_of(&params, &out[i]);
      CHECK_OK(umrt_scheduler_submit(scheduler, &request, &ids[i]));
      CHECK_EQUAL(i + 1, ids[i]);
    }
    umrt_request_result early = UMRT_REQUEST_RESULT_INIT;
    CHECK_FAILS(UMRT_BUSY, "has not ended", umrt_scheduler_result(scheduler, ids[0], &early));
    run(scheduler);
    for (int i = 0; i < N; i++) {
      const umrt_request_result result = result_of(scheduler, ids[i]);
      CHECK_TEXT(alone[i], out[i].text);
      CHECK_OK(result.status);
      CHECK_EQUAL(ids[i], result.id);
      CHECK_EQUAL(UMRT_STOP_MAX_TOKENS, result.stop_reason);
      CHECK_EQUAL(prompts[i].n, result.n_prompt_tokens);
      CHECK_EQUAL(MAX_TOKENS, result.n_tokens);
      CHECK_EQUAL(result.first_token_ns, result.queue_ns + result.prompt_ns);
      CHECK(result.prompt_ns > 0 && result.decode_ns > 0);
      CHECK_TEXT("", result.message);
      CHECK_FAILS(UMRT_NOT_FOUND, "taken", umrt_scheduler_result(scheduler, ids[i], &early));
    }
    all_sequences_are_empty(ctx, 2);
    umrt_scheduler_free(scheduler);
    umrt_ctx_free(ctx);
  }
}

/* A request that hands in the next one from its callbacks, and cancels another. */
typedef struct {
  umrt_scheduler *scheduler;
  umrt_ctx *ctx;
  collected out;
  int next;
  uint64_t victim;
  int n_finished;
  umrt_status last_status;
} chain;

static void submit_next(chain *own);

static int32_t use_the_scheduler_inside(const char *text, size_t length, int32_t token,
                                        void *userdata) {
  chain *own = userdata;
  uint32_t n_tokens;
  CHECK_FAILS(UMRT_BUSY, "context", umrt_seq_length(own->ctx, 0, &n_tokens));
  CHECK_FAILS(UMRT_BUSY, "scheduler", umrt_scheduler_step(own->scheduler, NULL, NULL));
  if (own->victim) {
    CHECK_OK(umrt_scheduler_cancel(own->scheduler, own->victim));
    own->victim = 0;
  }
  return collect(text, length, token, &own->out);
}

static void go_on(const umrt_request_result *result, void *userdata) {
  chain *own = userdata;
  CHECK_EQUAL(sizeof *result, result->struct_size);
  CHECK_OK(result->status);
  CHECK_TEXT(alone[own->next - 1], own->out.text);
  own->out = (collected){.n_calls = 0};
  own->n_finished++;
  if (own->next < N) submit_next(own);
}

static void submit_next(chain *own) {
  const umrt_generate_params params = params_of(own->next++);
  umrt_request request = UMRT_REQUEST_INIT;
  request.params = &params;
  request.callback = use_the_scheduler_inside;
  request.finished = go_on;
  request.userdata = own;
  CHECK_OK(umrt_scheduler_submit(own->scheduler, &request, NULL));
}

static void callbacks_may_submit_and_cancel(void) {
  umrt_ctx *ctx = new_ctx(2, 0);
  umrt_scheduler *scheduler = new_scheduler(ctx, 0);
  collected cancelled = {.n_calls = 0};
  chain own = {.scheduler = scheduler, .ctx = ctx};
  submit_next(&own);
  const umrt_generate_params params = params_of(4);
  const umrt_request request = request_of(&params, &cancelled);
  CHECK_OK(umrt_scheduler_submit(scheduler, &request, &own.victim));
  const uint64_t victim = own.victim;
  run(scheduler);
  CHECK_EQUAL(N, own.n_finished);
  const umrt_request_result result = result_of(scheduler, victim);
  CHECK_EQUAL(UMRT_CANCELLED, result.status);
  CHECK_EQUAL(0, result.stop_reason);
  CHECK_CONTAINS("cancelled", result.message);
  CHECK(cancelled.n_calls <= 1);
  CHECK_FAILS(UMRT_NOT_FOUND, "request 2", umrt_scheduler_cancel(scheduler, victim));
  all_sequences_are_empty(ctx, 2);
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
}

static int32_t stop_at_third(const char *text, size_t length, int32_t token, void *userdata) {
  collect(text, length, token, userdata);
  return ((collected *)userdata)->n_calls == 3;
}

static void what_ends_one_leaves_the_others(void) {
  umrt_ctx *ctx = new_ctx(N, (uint32_t)prompts[0].n + 3);
  umrt_scheduler *scheduler = new_scheduler(ctx, 0);
  umrt_cancel *cancel;
  umrt_sampler *sampler = new_sampler(0, 0);
  collected out[N];
  umrt_generate_params params[N];
  umrt_request requests[N];
  uint64_t ids[N];
  CHECK_OK(umrt_cancel_new(&cancel));
  memset(out, 0, sizeof out);
  for (int i = 0; i < N; i++) params[i] = params_of(i), requests[i] = request_of(&params[i], &out[i]);
  /* 0: the context is full. 1: its callback stops it. 2: a stop string. 3: cancelled.
   * 4: goes on to its end. */
  const char *stop = "oac";
  requests[1].callback = stop_at_third;
  params[2].tokens = prompts[4].ids;
  params[2].n_tokens = prompts[4].n;
  params[2].stop = &stop;
  params[2].n_stop = strstr(alone[4], stop) != NULL;
  requests[3].cancel = cancel;
  params[4].sampler = sampler;
  for (int i = 0; i < N; i++) CHECK_OK(umrt_scheduler_submit(scheduler, &requests[i], &ids[i]));
  CHECK_OK(umrt_scheduler_step(scheduler, NULL, NULL));
  umrt_cancel_trigger(cancel);
  umrt_cancel_free(cancel);
  umrt_sampler_free(sampler);
  run(scheduler);
  const umrt_request_result full = result_of(scheduler, ids[0]);
  CHECK_EQUAL(UMRT_STOP_CONTEXT_FULL, full.stop_reason);
  CHECK_EQUAL(4, full.n_tokens);
  CHECK_EQUAL(UMRT_STOP_CALLBACK, result_of(scheduler, ids[1]).stop_reason);
  CHECK_EQUAL(3, out[1].n_calls);
  CHECK_OK(result_of(scheduler, ids[2]).status);
  CHECK(strncmp(alone[4], out[2].text, out[2].length) == 0);
  const umrt_request_result cancelled = result_of(scheduler, ids[3]);
  CHECK_EQUAL(UMRT_CANCELLED, cancelled.status);
  CHECK_EQUAL(1, cancelled.n_tokens);
  CHECK_EQUAL(UMRT_STOP_MAX_TOKENS, result_of(scheduler, ids[4]).stop_reason);
  CHECK_TEXT(alone[4], out[4].text);
  all_sequences_are_empty(ctx, N);
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
}

static void a_request_ends_at_its_deadline(void) {
  umrt_ctx *ctx = new_ctx(2, 0);
  umrt_scheduler *scheduler = new_scheduler(ctx, 0);
  collected out[2] = {{.n_calls = 0}};
  uint64_t ids[2];
  for (int i = 0; i < 2; i++) {
    umrt_generate_params params = params_of(i);
    params.deadline_ms = i == 0 ? 1 : 3600000;
    const umrt_request request = request_of(&params, &out[i]);
    CHECK_OK(umrt_scheduler_submit(scheduler, &request, &ids[i]));
  }
  nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  run(scheduler);
  const umrt_request_result late = result_of(scheduler, ids[0]);
  CHECK_EQUAL(UMRT_DEADLINE_EXCEEDED, late.status);
  CHECK_CONTAINS("deadline", late.message);
  CHECK_EQUAL(0, late.n_tokens);
  CHECK_OK(result_of(scheduler, ids[1]).status);
  CHECK_TEXT(alone[1], out[1].text);
  all_sequences_are_empty(ctx, 2);
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
}

static void a_cancelled_step_changes_nothing(void) {
  umrt_ctx *ctx = new_ctx(2, 0);
  umrt_scheduler *scheduler = new_scheduler(ctx, 0);
  umrt_cancel *cancel;
  umrt_step_result step = UMRT_STEP_RESULT_INIT;
  collected out[2] = {{.n_calls = 0}};
  CHECK_OK(umrt_cancel_new(&cancel));
  for (int i = 0; i < 2; i++) {
    const umrt_generate_params params = params_of(i);
    const umrt_request request = request_of(&params, &out[i]);
    CHECK_OK(umrt_scheduler_submit(scheduler, &request, NULL));
  }
  for (int i = 0; i < 20; i++) {
    umrt_cancel_trigger(cancel);
    CHECK_STATUS(UMRT_CANCELLED, umrt_scheduler_step(scheduler, cancel, &step));
    umrt_cancel_reset(cancel);
    CHECK_OK(umrt_scheduler_step(scheduler, cancel, &step));
    CHECK_EQUAL(2, step.n_active);
  }
  run(scheduler);
  CHECK_TEXT(alone[0], out[0].text);
  CHECK_TEXT(alone[1], out[1].text);
  umrt_cancel_free(cancel);
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
}

static void sequences_of_the_caller_are_left_alone(void) {
  umrt_ctx *ctx = new_ctx(2, 0);
  umrt_scheduler *scheduler = new_scheduler(ctx, 0);
  const token_list *prompt = &prompts[0];
  const uint32_t n_first = 20;
  uint32_t length;
  uint64_t id;
  collected out = {.n_calls = 0};
  CHECK_OK(eval_tokens(ctx, prompt->ids, n_first));

  /* Behind what a sequence holds; there it stays. */
  umrt_generate_params params = params_of(0);
  params.tokens += n_first;
  params.n_tokens -= n_first;
  params.flags |= UMRT_GENERATE_IN_SEQ;
  umrt_request request = request_of(&params, &out);
  CHECK_OK(umrt_scheduler_submit(scheduler, &request, &id));
  /* Waits for the same sequence. */
  const int32_t last = 35;
  umrt_generate_params second = params_of(0);
  second.tokens = &last;
  second.n_tokens = 1;
  second.max_tokens = 1;
  second.flags |= UMRT_GENERATE_IN_SEQ;
  umrt_request behind = request_of(&second, NULL);
  CHECK_OK(umrt_scheduler_submit(scheduler, &behind, NULL));
  run(scheduler);
  CHECK_TEXT(alone[0], out.text);
  CHECK_OK(umrt_seq_length(ctx, 0, &length));
  CHECK_EQUAL(prompt->n + MAX_TOKENS - 1 + 1, length);

  /* With no empty sequence there is nothing to wait for. */
  CHECK_OK(umrt_seq_fork(ctx, 0, 1));
  params = params_of(1);
  request = request_of(&params, NULL);
  CHECK_OK(umrt_scheduler_submit(scheduler, &request, &id));
  run(scheduler);
  umrt_request_result result = result_of(scheduler, id);
  CHECK_EQUAL(UMRT_NO_SPACE, result.status);
  CHECK_CONTAINS("empty", result.message);

  /* Another call changes a sequence in use. */
  CHECK_OK(umrt_seq_trim(ctx, 1, 0));
  CHECK_OK(umrt_scheduler_submit(scheduler, &request, &id));
  CHECK_OK(umrt_scheduler_step(scheduler, NULL, NULL));
  CHECK_OK(umrt_seq_trim(ctx, 1, 2));
  run(scheduler);
  result = result_of(scheduler, id);
  CHECK_EQUAL(UMRT_INVALID_ARGUMENT, result.status);
  CHECK_CONTAINS("another call changed it", result.message);
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
}

static void tokens_need_no_tokenizer(void) {
  umrt_model *bare = open_model(TOKEN_MODEL);
  umrt_ctx *ctx = new_context(bare, 64);
  umrt_scheduler *scheduler = new_scheduler(ctx, 0);
  const int32_t tokens[] = {3, 1, 4};
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  uint64_t id;
  collected out;
  params.tokens = tokens;
  params.n_tokens = 3;
  params.max_tokens = 5;
  umrt_request request = request_of(&params, NULL);
  CHECK_OK(umrt_scheduler_submit(scheduler, &request, &id));
  run(scheduler);
  CHECK_EQUAL(5, result_of(scheduler, id).n_tokens);
  CHECK_OK(umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
  request = request_of(&params, &out);
  CHECK_FAILS(UMRT_NOT_FOUND, "tokenizer", umrt_scheduler_submit(scheduler, &request, &id));
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
  umrt_model_free(bare);
}

typedef struct {
  umrt_scheduler *scheduler;
  collected out[N];
  uint64_t ids[N];
} submitter;

static void *submit_all(void *userdata) {
  submitter *own = userdata;
  for (int i = 0; i < N; i++) {
    const umrt_generate_params params = params_of(i);
    const umrt_request request = request_of(&params, &own->out[i]);
    CHECK_OK(umrt_scheduler_submit(own->scheduler, &request, &own->ids[i]));
  }
  return NULL;
}

static void requests_join_from_other_threads_while_steps_run(void) {
  enum { THREADS = 3 };
  static submitter submitters[THREADS];
  pthread_t threads[THREADS];
  umrt_ctx *ctx = new_ctx(4, 0);
  umrt_scheduler *scheduler = new_scheduler(ctx, 16);
  for (int i = 0; i < THREADS; i++) {
    submitters[i].scheduler = scheduler;
    CHECK_EQUAL(0, pthread_create(&threads[i], NULL, submit_all, &submitters[i]));
  }
  run(scheduler);
  for (int i = 0; i < THREADS; i++) CHECK_EQUAL(0, pthread_join(threads[i], NULL));
  run(scheduler);
  for (int i = 0; i < THREADS; i++)
    for (int k = 0; k < N; k++) {
      CHECK_OK(result_of(scheduler, submitters[i].ids[k]).status);
      CHECK_TEXT(alone[k], submitters[i].out[k].text);
    }
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
}

static void handles_are_freed_in_any_order(void) {
  umrt_ctx *ctx = new_ctx(2, 0);
  umrt_scheduler *scheduler = new_scheduler(ctx, 0);
  collected out = {.n_calls = 0};
  const umrt_generate_params params = params_of(0);
  const umrt_request request = request_of(&params, &out);
  CHECK_OK(umrt_scheduler_submit(scheduler, &request, NULL));
  CHECK_OK(umrt_scheduler_step(scheduler, NULL, NULL));
  umrt_ctx_free(ctx);
  CHECK_OK(umrt_scheduler_step(scheduler, NULL, NULL));
  umrt_scheduler_free(scheduler);
  CHECK(out.n_calls <= 2);
}

static void many_in_one_call(void) {
  umrt_ctx *ctx = new_ctx(3, 0);
  collected out[N];
  umrt_generate_params params[N];
  umrt_request requests[N];
  umrt_request_result results[N];
  umrt_cancel *cancel;
  memset(out, 0, sizeof out);
  for (int i = 0; i < N; i++) {
    params[i] = params_of(i);
    requests[i] = request_of(&params[i], &out[i]);
    results[i] = UMRT_REQUEST_RESULT_INIT;
  }
  params[2].n_tokens = 0;
  CHECK_OK(umrt_generate_many(ctx, requests, N, NULL, results));
  for (int i = 0; i < N; i++) {
    CHECK_STATUS(i == 2 ? UMRT_INVALID_ARGUMENT : UMRT_OK, results[i].status);
    CHECK_TEXT(i == 2 ? "" : alone[i], out[i].text);
  }
  CHECK_CONTAINS("no tokens", results[2].message);
  CHECK_EQUAL(0, results[2].id);
  all_sequences_are_empty(ctx, 3);

  CHECK_OK(umrt_generate_many(ctx, NULL, 0, NULL, NULL));
  CHECK_OK(umrt_generate_many(ctx, requests, 2, NULL, NULL));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "NULL", umrt_generate_many(ctx, NULL, 2, NULL, results));
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "context", umrt_generate_many(NULL, requests, N, NULL, NULL));
  results[1].struct_size = 4;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "differ", umrt_generate_many(ctx, requests, N, NULL, results));
  results[1].struct_size = results[0].struct_size;
  requests[0].finished = go_on;
  CHECK_OK(umrt_generate_many(ctx, requests, 1, NULL, results));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, results[0].status);
  CHECK_CONTAINS("finished", results[0].message);
  requests[0].finished = NULL;

  CHECK_OK(umrt_cancel_new(&cancel));
  umrt_cancel_trigger(cancel);
  CHECK_STATUS(UMRT_CANCELLED, umrt_generate_many(ctx, requests, N, cancel, results));
  for (int i = 0; i < N; i++)
    CHECK_EQUAL(i == 2 ? UMRT_INVALID_ARGUMENT : UMRT_CANCELLED, results[i].status);
  all_sequences_are_empty(ctx, 3);
  umrt_cancel_free(cancel);
  umrt_ctx_free(ctx);
}

/* Exact, so that it makes no difference how many tokens are computed together. */
static umrt_model *open_exact(void) {
  umrt_model *opened = NULL;
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  params.precision = UMRT_PRECISION_FLOAT32;
  REQUIRE(CHECK_OK(umrt_model_open(CHAT_MODEL, &params, &opened)));
  return opened;
}

int main(void) {
  model = open_exact();
  prepare();
  bad_input_is_refused_at_once();
  more_requests_than_sequences_give_what_they_give_alone();
  callbacks_may_submit_and_cancel();
  what_ends_one_leaves_the_others();
  a_request_ends_at_its_deadline();
  a_cancelled_step_changes_nothing();
  sequences_of_the_caller_are_left_alone();
  tokens_need_no_tokenizer();
  requests_join_from_other_threads_while_steps_run();
  handles_are_freed_in_any_order();
  many_in_one_call();
  umrt_model_free(model);
  return check_summary(__FILE__);
}
