/* One call at a time on a context, any number of contexts at once. */

#include "fixtures.h"

#include <pthread.h>
#include <semaphore.h>
#include <time.h>

static umrt_model *model;

/* A generation whose first callback waits until somebody lets it go on. */
typedef struct {
  const umrt_model *model;
  umrt_ctx *ctx;
  umrt_sampler *sampler;
  umrt_cancel *cancel;
  int waits;
  sem_t has_begun;
  sem_t may_go_on;
  collected out;
  umrt_status status;
} generation;

static int32_t wait_inside(const char *text, size_t length, int32_t token, void *userdata) {
  generation *own = userdata;
  if (own->waits && own->out.n_calls == 0) {
    sem_post(&own->has_begun);
    sem_wait(&own->may_go_on);
  }
  return collect(text, length, token, &own->out);
}

static void *run(void *userdata) {
  generation *own = userdata;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.tokens = (const int32_t[]){299, 35, 10, 38};
  params.n_tokens = 4;
  params.max_tokens = 48;
  params.flags = UMRT_GENERATE_IGNORE_END;
  params.sampler = own->sampler;
  own->status = umrt_generate(own->ctx, &params, wait_inside, own, own->cancel, NULL);
  return NULL;
}

static void prepare(generation *own, const umrt_model *of, int waits) {
  memset(own, 0, sizeof *own);
  own->model = of;
  own->waits = waits;
  own->ctx = new_context(of, 0);
  own->sampler = new_sampler(1, 7);
  CHECK_OK(umrt_cancel_new(&own->cancel));
  CHECK_EQUAL(0, sem_init(&own->has_begun, 0, 0));
  CHECK_EQUAL(0, sem_init(&own->may_go_on, 0, 0));
}

static void release(generation *own) {
  umrt_ctx_free(own->ctx);
  umrt_sampler_free(own->sampler);
  umrt_cancel_free(own->cancel);
  sem_destroy(&own->has_begun);
  sem_destroy(&own->may_go_on);
}

static pthread_t begin(generation *own) {
  pthread_t thread;
  CHECK_EQUAL(0, pthread_create(&thread, NULL, run, own));
  sem_wait(&own->has_begun);
  return thread;
}

static void go_on(generation *own, pthread_t thread) {
  sem_post(&own->may_go_on);
  CHECK_EQUAL(0, pthread_join(thread, NULL));
}

static void overlapping_calls_are_busy_and_disturb_nothing(const char *undisturbed) {
  generation own;
  umrt_ctx_info info = UMRT_CTX_INFO_INIT;
  umrt_perf perf = UMRT_PERF_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  uint32_t n_tokens;
  int32_t token = 35;
  float logits[4];
  const float *view;
  params.tokens = &token;
  params.n_tokens = 1;
  prepare(&own, model, 1);
  umrt_sampler *other = new_sampler(0, 0);
  const pthread_t thread = begin(&own);
  CHECK_FAILS(UMRT_BUSY, "context", umrt_ctx_info_get(own.ctx, &info));
  CHECK_STATUS(UMRT_BUSY, umrt_ctx_perf(own.ctx, &perf));
  CHECK_STATUS(UMRT_BUSY, umrt_ctx_memory_stats(own.ctx, &memory));
  CHECK_STATUS(UMRT_BUSY, umrt_seq_length(own.ctx, 0, &n_tokens));
  CHECK_STATUS(UMRT_BUSY, umrt_seq_trim(own.ctx, 0, 0));
  CHECK_STATUS(UMRT_BUSY, eval_tokens(own.ctx, &token, 1));
  CHECK_STATUS(UMRT_BUSY, umrt_logits(own.ctx, 0, logits, 4, NULL));
  CHECK_STATUS(UMRT_BUSY, umrt_logits_view(own.ctx, 0, &view));
  CHECK_STATUS(UMRT_BUSY, umrt_sample(own.ctx, other, 0, &token));
  CHECK_STATUS(UMRT_BUSY, umrt_generate(own.ctx, &params, NULL, NULL, NULL, NULL));
  CHECK_FAILS(UMRT_BUSY, "sampler", umrt_sampler_reset(own.sampler));
  CHECK_STATUS(UMRT_BUSY, umrt_sampler_accept(own.sampler, 1));
  CHECK_OK(umrt_memory_stats(&memory));
  go_on(&own, thread);
  CHECK_OK(own.status);
  CHECK_TEXT(undisturbed, own.out.text);
  CHECK_OK(umrt_ctx_info_get(own.ctx, &info));
  umrt_sampler_free(other);
  release(&own);
}

typedef struct {
  umrt_ctx *ctx;
  int n_ok, n_busy, n_other;
} counts;

static void *hammer(void *userdata) {
  enum { CALLS = 200 };
  counts *own = userdata;
  const int32_t token = 35;
  for (int i = 0; i < CALLS; i++) {
    switch (eval_tokens(own->ctx, &token, 1)) {
      case UMRT_OK: own->n_ok++; break;
      case UMRT_BUSY: own->n_busy++; i--; break;
      default: own->n_other++; break;
    }
  }
  return NULL;
}

static void of_two_racing_calls_one_is_done_and_the_other_busy(void) {
  umrt_ctx *ctx = new_context(model, 1024);
  counts each[2] = {{.ctx = ctx}, {.ctx = ctx}};
  pthread_t threads[2];
  umrt_perf perf = UMRT_PERF_INIT;
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, hammer, &each[i]);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  CHECK_EQUAL(0, each[0].n_other + each[1].n_other);
  CHECK_EQUAL(each[0].n_ok + each[1].n_ok, length_of(ctx));
  CHECK_OK(umrt_ctx_perf(ctx, &perf));
  CHECK_EQUAL(length_of(ctx), perf.n_evals);
  umrt_ctx_free(ctx);
}

static void contexts_in_parallel_give_what_each_gives_alone(const char *alone) {
  enum { N = 6, ROUNDS = 4 };
  static generation all[N];
  pthread_t threads[N];
  for (int round = 0; round < ROUNDS; round++) {
    for (int i = 0; i < N; i++) {
      prepare(&all[i], model, 0);
      CHECK_EQUAL(0, pthread_create(&threads[i], NULL, run, &all[i]));
    }
    for (int i = 0; i < N; i++) {
      CHECK_EQUAL(0, pthread_join(threads[i], NULL));
      CHECK_OK(all[i].status);
      CHECK_TEXT(alone, all[i].out.text);
      release(&all[i]);
    }
  }
}

static void generation_is_cancelled_from_another_thread(void) {
  generation own;
  prepare(&own, model, 1);
  const pthread_t thread = begin(&own);
  umrt_cancel_trigger(own.cancel);
  umrt_cancel *freed_early = own.cancel;
  own.cancel = NULL;
  umrt_cancel_free(freed_early);
  go_on(&own, thread);
  CHECK_EQUAL(UMRT_CANCELLED, own.status);
  CHECK_EQUAL(1, own.out.n_calls);
  release(&own);
}

enum { LONG_PROMPT = 200000 };

typedef struct {
  umrt_ctx *ctx;
  umrt_cancel *cancel;
  sem_t begins;
  umrt_status status;
} prefill;

static void *run_prefill(void *userdata) {
  static int32_t tokens[LONG_PROMPT];
  prefill *own = userdata;
  umrt_batch batch = UMRT_BATCH_INIT;
  batch.tokens = tokens;
  batch.n_tokens = LONG_PROMPT;
  sem_post(&own->begins);
  own->status = umrt_eval(own->ctx, &batch, own->cancel, NULL);
  return NULL;
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void prefill_is_cancelled_from_another_thread(void) {
  prefill own = {.ctx = new_context(model, LONG_PROMPT)};
  pthread_t thread;
  CHECK_OK(umrt_cancel_new(&own.cancel));
  sem_init(&own.begins, 0, 0);
  pthread_create(&thread, NULL, run_prefill, &own);
  sem_wait(&own.begins);
  nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
  const double triggered = seconds();
  umrt_cancel_trigger(own.cancel);
  pthread_join(thread, NULL);
  CHECK_EQUAL(UMRT_CANCELLED, own.status);
  /* One layer of one chunk takes milliseconds; all of it takes minutes. */
  CHECK(seconds() - triggered < 20);
  CHECK_EQUAL(0, length_of(own.ctx));
  CHECK_OK(eval_tokens(own.ctx, (const int32_t[]){35}, 1));
  sem_destroy(&own.begins);
  umrt_cancel_free(own.cancel);
  umrt_ctx_free(own.ctx);
}

static void a_prefill_that_takes_too_long_stops_and_changes_nothing(void) {
  static const int32_t tokens[LONG_PROMPT];
  umrt_ctx *ctx = new_context(model, LONG_PROMPT);
  umrt_batch batch = UMRT_BATCH_INIT;
  batch.tokens = tokens;
  batch.n_tokens = LONG_PROMPT;
  batch.deadline_ms = 20;
  const double began = seconds();
  CHECK_FAILS(UMRT_DEADLINE_EXCEEDED, "deadline", umrt_eval(ctx, &batch, NULL, NULL));
  CHECK(seconds() - began < 20);
  CHECK_EQUAL(0, length_of(ctx));
  batch.n_tokens = 1;
  batch.deadline_ms = UINT32_MAX;
  CHECK_OK(umrt_eval(ctx, &batch, NULL, NULL));
  batch.reserved = 1;
  CHECK_FAILS(UMRT_UNSUPPORTED, "reserved", umrt_eval(ctx, &batch, NULL, NULL));
  umrt_ctx_free(ctx);
}

static void handles_freed_during_a_call_live_until_it_ends(const char *undisturbed) {
  generation own;
  umrt_model *opened = open_model(CHAT_MODEL);
  const uint64_t kv_before = process_memory().kv_reserved_bytes;
  prepare(&own, opened, 1);
  const pthread_t thread = begin(&own);
  release(&(generation){.ctx = own.ctx, .sampler = own.sampler, .cancel = own.cancel});
  umrt_model_free(opened);
  CHECK(process_memory().kv_reserved_bytes > kv_before);
  go_on(&own, thread);
  CHECK_OK(own.status);
  CHECK_TEXT(undisturbed, own.out.text);
  CHECK_EQUAL(kv_before, process_memory().kv_reserved_bytes);
  sem_destroy(&own.has_begun);
  sem_destroy(&own.may_go_on);
}

static void *open_and_close(void *unused) {
  for (int i = 0; i < 20; i++) {
    umrt_model *opened = open_model(CHAT_MODEL);
    umrt_ctx *ctx = new_context(opened, 0);
    CHECK_OK(eval_tokens(ctx, (const int32_t[]){35, 10}, 2));
    process_memory();
    umrt_model_free(opened);
    umrt_ctx_free(ctx);
  }
  return unused;
}

static void models_open_and_close_in_parallel(void) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, open_and_close, NULL);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

int main(void) {
  static generation alone;
  model = open_model(CHAT_MODEL);
  prepare(&alone, model, 0);
  run(&alone);
  CHECK_OK(alone.status);
  CHECK(alone.out.n_calls > 3);
  overlapping_calls_are_busy_and_disturb_nothing(alone.out.text);
  of_two_racing_calls_one_is_done_and_the_other_busy();
  contexts_in_parallel_give_what_each_gives_alone(alone.out.text);
  generation_is_cancelled_from_another_thread();
  prefill_is_cancelled_from_another_thread();
  a_prefill_that_takes_too_long_stops_and_changes_nothing();
  handles_freed_during_a_call_live_until_it_ends(alone.out.text);
  models_open_and_close_in_parallel();
  release(&alone);
  umrt_model_free(model);
  return check_summary(__FILE__);
}
