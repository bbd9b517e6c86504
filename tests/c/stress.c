/* stress MODEL [SECONDS [PATIENCE_SECONDS]]
 *
 * Sixteen threads use four models in every way at once, at random: contexts of their own
 * and shared ones, schedulers, callbacks that call back in, cancellations, deadlines,
 * handles freed while they are in use. Texts stay what they are alone, BUSY is said of
 * what is in use and of nothing else, and in the end everything is given back. A thread
 * that comes to no end within PATIENCE_SECONDS ends the program. */

#include "fixtures.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum {
  N_THREADS = 16,
  N_MODELS = 4,
  N_CTX = 128,
  N_PROMPT = 40,
  N_MORE = 8,
  SECONDS = 20,
  PATIENCE_SECONDS = 120,
};

/* A model, and what all threads use of it. */
typedef struct {
  const char *path;
  int speaks;
  umrt_model *model;
  int32_t prompt[N_PROMPT];
  int32_t expected[N_MORE];
  umrt_ctx *shared;
  umrt_ctx *scheduled;
  umrt_scheduler *scheduler;
  /* Calls that use the shared context now, and that ever did; of the scheduler's
   * context likewise. */
  atomic_long n_inside[2], n_begun[2];
} subject;

enum { SHARED, SCHEDULED };

typedef struct {
  uint64_t random;
  umrt_cancel *cancel;
  atomic_long n_done;
  pthread_t thread;
} worker;

static subject subjects[N_MODELS];
static worker workers[N_THREADS];
static atomic_int is_over;
static atomic_long n_busy, n_cancelled, n_late;

static uint32_t below(worker *own, uint32_t bound) {
  own->random ^= own->random << 13;
  own->random ^= own->random >> 7;
  own->random ^= own->random << 17;
  return (uint32_t)(own->random >> 32) % bound;
}

/* One greedy token behind the last evaluation. */
static umrt_status next_token(umrt_ctx *ctx, int32_t *token) {
  umrt_sampler *sampler = new_sampler(0, 0);
  const umrt_status status = umrt_sample(ctx, sampler, 0, token);
  umrt_sampler_free(sampler);
  return status;
}

static umrt_ctx *own_context(worker *own, const umrt_model *model) {
  umrt_ctx *ctx = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = N_CTX;
  params.n_seq = 2;
  params.n_threads = 1 + below(own, 3);
  params.prefill_chunk = 16 << below(own, 3);
  params.prefix_cache = below(own, 2);
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  return ctx;
}

static umrt_generate_params of_prompt(const subject *on) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.tokens = on->prompt;
  params.n_tokens = N_PROMPT;
  params.max_tokens = N_MORE;
  params.flags = UMRT_GENERATE_IGNORE_END;
  return params;
}

/* Whether a sequence holds the prompt and what follows it; the last token is in none. */
static void check_tokens(umrt_ctx *ctx, int32_t seq, const subject *on) {
  int32_t tokens[N_CTX];
  size_t n;
  if (!CHECK_OK(umrt_seq_tokens(ctx, seq, tokens, N_CTX, &n))) return;
  CHECK_EQUAL(N_PROMPT + N_MORE - 1, n);
  CHECK(memcmp(tokens + N_PROMPT, on->expected, (N_MORE - 1) * sizeof *tokens) == 0);
}

static void in_a_context_of_its_own(worker *own, subject *on) {
  umrt_ctx *ctx = own_context(own, on->model);
  const umrt_generate_params params = of_prompt(on);
  for (int i = 0; i < 2; i++) {
    CHECK_OK(umrt_generate(ctx, &params, NULL, NULL, NULL, NULL));
    check_tokens(ctx, 0, on);
    CHECK_OK(umrt_seq_fork(ctx, 0, 1));
    check_tokens(ctx, 1, on);
    CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  }
  umrt_ctx_free(ctx);
}

/* A call on what others use too: BUSY only if another one was inside meanwhile. */
static umrt_status guarded(subject *on, int which, umrt_status (*call)(subject *on)) {
  const long n_before = atomic_fetch_add(&on->n_inside[which], 1);
  const long begun = atomic_fetch_add(&on->n_begun[which], 1) + 1;
  const umrt_status status = call(on);
  const int was_alone = n_before == 0 && atomic_load(&on->n_begun[which]) == begun;
  atomic_fetch_sub(&on->n_inside[which], 1);
  if (status != UMRT_BUSY) return status;
  CHECK(!was_alone);
  atomic_fetch_add(&n_busy, 1);
  return status;
}

static umrt_status length_of_shared(subject *on) {
  uint32_t n;
  return umrt_seq_length(on->shared, 0, &n);
}

static umrt_status eval_in_shared(subject *on) { return eval_tokens(on->shared, on->prompt, 4); }
static umrt_status trim_shared(subject *on) { return umrt_seq_trim(on->shared, 0, 0); }
static umrt_status fork_shared(subject *on) { return umrt_seq_fork(on->shared, 0, 1); }

static umrt_status generate_in_shared(subject *on) {
  const umrt_generate_params params = of_prompt(on);
  return umrt_generate(on->shared, &params, NULL, NULL, NULL, NULL);
}

static void in_a_context_of_all(worker *own, subject *on) {
  static umrt_status (*const calls[])(subject *) = {
      length_of_shared, eval_in_shared, trim_shared, fork_shared, generate_in_shared,
  };
  for (int i = 0; i < 8; i++) {
    const umrt_status status = guarded(on, SHARED, calls[below(own, 5)]);
    if (status == UMRT_NO_SPACE) guarded(on, SHARED, trim_shared);
    else CHECK(status == UMRT_OK || status == UMRT_BUSY);
  }
}

/* Counts what it is; everything else is a failure. */
static void check_stopped_or_fine(umrt_status status) {
  if (status == UMRT_CANCELLED) atomic_fetch_add(&n_cancelled, 1);
  else if (status == UMRT_DEADLINE_EXCEEDED) atomic_fetch_add(&n_late, 1);
  else CHECK_OK(status);
}

/* Others trigger this thread's flag whenever they like. */
static void while_others_cancel(worker *own, subject *on) {
  umrt_ctx *ctx = own_context(own, on->model);
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_generate_params params = of_prompt(on);
  int32_t token = -1;
  batch.tokens = on->prompt;
  batch.n_tokens = N_PROMPT;
  batch.deadline_ms = below(own, 4);
  const umrt_status status = umrt_eval(ctx, &batch, own->cancel, NULL);
  check_stopped_or_fine(status);
  CHECK_EQUAL(status == UMRT_OK ? N_PROMPT : 0, length_of(ctx));
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  params.deadline_ms = below(own, 20);
  check_stopped_or_fine(umrt_generate(ctx, &params, NULL, NULL, own->cancel, NULL));
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(eval_tokens(ctx, on->prompt, N_PROMPT));
  CHECK_OK(next_token(ctx, &token));
  CHECK_EQUAL(on->expected[0], token);
  umrt_ctx_free(ctx);
}

static void cancel_others(worker *own, subject *on) {
  (void)on;
  for (int i = 0; i < 20; i++) {
    umrt_cancel *other = workers[below(own, N_THREADS)].cancel;
    umrt_cancel_trigger(other);
    nanosleep(&(struct timespec){.tv_nsec = below(own, 300000)}, NULL);
    umrt_cancel_reset(other);
  }
}

typedef struct {
  worker *own;
  subject *on;
  umrt_ctx *ctx;
  umrt_scheduler *scheduler;
  int n_calls;
} inside;

static int32_t call_back_in(const char *text, size_t length, int32_t token, void *userdata) {
  inside *in = userdata;
  uint32_t n;
  int32_t ids[16];
  size_t n_ids;
  (void)text, (void)length;
  in->n_calls++;
  CHECK_STATUS(UMRT_BUSY, umrt_seq_length(in->ctx, 0, &n));
  CHECK_STATUS(UMRT_BUSY, eval_tokens(in->ctx, &token, 1));
  if (in->scheduler != NULL)
    CHECK_STATUS(UMRT_BUSY, umrt_scheduler_step(in->scheduler, NULL, NULL));
  CHECK_OK(umrt_tokenize(in->on->model, "a", 1, 0, ids, 16, &n_ids));
  if (below(in->own, 4) == 0) in_a_context_of_its_own(in->own, in->on);
  return 0;
}

static void with_callbacks_that_call_back_in(worker *own, subject *on) {
  if (!on->speaks) return;
  umrt_ctx *ctx = own_context(own, on->model);
  inside in = {.own = own, .on = on, .ctx = ctx};
  const umrt_generate_params params = of_prompt(on);
  CHECK_OK(umrt_generate(ctx, &params, call_back_in, &in, NULL, NULL));
  check_tokens(ctx, 0, on);
  umrt_ctx_free(ctx);
}

typedef struct {
  umrt_model *model;
  umrt_ctx *ctx;
  umrt_sampler *sampler;
} handles;

static int32_t free_all(const char *text, size_t length, int32_t token, void *userdata) {
  handles *all = userdata;
  (void)text, (void)length, (void)token;
  umrt_ctx_free(all->ctx);
  umrt_sampler_free(all->sampler);
  umrt_model_free(all->model);
  *all = (handles){.model = NULL};
  return 0;
}

/* A model of its own, too. */
static void while_handles_are_freed(worker *own, subject *on) {
  if (!on->speaks) return;
  handles all = {.model = open_model(on->path), .sampler = new_sampler(0, 0)};
  all.ctx = own_context(own, all.model);
  umrt_generate_params params = of_prompt(on);
  params.sampler = all.sampler;
  CHECK_OK(umrt_generate(all.ctx, &params, free_all, &all, NULL, NULL));
  free_all(NULL, 0, 0, &all);
}

static void open_and_close(worker *own, subject *on) {
  umrt_model *model = open_model(on->path);
  umrt_ctx *ctx = own_context(own, model);
  int32_t token = -1;
  umrt_model_free(model);
  CHECK_OK(eval_tokens(ctx, on->prompt, N_PROMPT));
  CHECK_OK(next_token(ctx, &token));
  CHECK_EQUAL(on->expected[0], token);
  umrt_ctx_free(ctx);
}

static void forget(const umrt_request_result *result, void *userdata) {
  (void)userdata;
  check_stopped_or_fine(result->status);
}

static void submit(worker *own, subject *on, umrt_scheduler *scheduler, inside *in) {
  umrt_generate_params params = of_prompt(on);
  umrt_request request = UMRT_REQUEST_INIT;
  uint64_t id;
  params.deadline_ms = below(own, 4) == 0 ? 1 + below(own, 20) : 0;
  request.params = &params;
  request.cancel = below(own, 2) ? own->cancel : NULL;
  request.callback = on->speaks && in != NULL ? call_back_in : NULL;
  request.finished = forget;
  request.userdata = in;
  if (CHECK_OK(umrt_scheduler_submit(scheduler, &request, &id)) && below(own, 4) == 0) {
    const umrt_status status = umrt_scheduler_cancel(scheduler, id);
    CHECK(status == UMRT_OK || status == UMRT_NOT_FOUND);
  }
}

static void with_a_scheduler_of_its_own(worker *own, subject *on) {
  umrt_ctx *ctx = own_context(own, on->model);
  umrt_scheduler *scheduler;
  umrt_step_result step = UMRT_STEP_RESULT_INIT;
  REQUIRE(CHECK_OK(umrt_scheduler_new(ctx, NULL, &scheduler)));
  inside in = {.own = own, .on = on, .ctx = ctx, .scheduler = scheduler};
  for (int i = 0; i < 5; i++) submit(own, on, scheduler, &in);
  do {
    check_stopped_or_fine(umrt_scheduler_step(scheduler, own->cancel, &step));
  } while (step.n_active > 0 && below(own, 200) > 0);
  umrt_scheduler_free(scheduler);
  umrt_ctx_free(ctx);
}

static umrt_status step_all(subject *on) {
  return umrt_scheduler_step(on->scheduler, NULL, NULL);
}

static void with_a_scheduler_of_all(worker *own, subject *on) {
  submit(own, on, on->scheduler, NULL);
  for (int i = 0; i < 10; i++) {
    const umrt_status status = guarded(on, SCHEDULED, step_all);
    CHECK(status == UMRT_OK || status == UMRT_BUSY);
  }
}

static void look_after_memory(worker *own, subject *on) {
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_trim_result trimmed = UMRT_TRIM_RESULT_INIT;
  CHECK_OK(umrt_memory_stats(&memory));
  CHECK_OK(umrt_model_memory_stats(on->model, &memory));
  if (below(own, 8) == 0) CHECK_OK(umrt_memory_trim(0, &trimmed));
}

typedef void (*role)(worker *own, subject *on);

static const role roles[] = {
    in_a_context_of_its_own, in_a_context_of_all,     while_others_cancel,
    cancel_others,           with_callbacks_that_call_back_in, while_handles_are_freed,
    open_and_close,          with_a_scheduler_of_its_own,      with_a_scheduler_of_all,
    look_after_memory,
};

static void *work(void *userdata) {
  worker *own = userdata;
  while (!atomic_load(&is_over)) {
    const role role = roles[below(own, sizeof roles / sizeof *roles)];
    role(own, &subjects[below(own, N_MODELS)]);
    atomic_fetch_add(&own->n_done, 1);
  }
  return NULL;
}

/* The prompt's continuation is what it is to be among others. */
static void prepare(subject *on, const char *path) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  int32_t ids[16], tokens[N_CTX];
  size_t n;
  on->path = path;
  on->model = open_model(path);
  on->speaks = umrt_tokenize(on->model, "a", 1, 0, ids, 16, &n) == UMRT_OK;
  for (int i = 0; i < N_PROMPT; i++) on->prompt[i] = (7 * i + 3) % 100;
  params.n_ctx = N_CTX;
  params.n_seq = 2;
  REQUIRE(CHECK_OK(umrt_ctx_new(on->model, &params, &on->shared)));
  REQUIRE(CHECK_OK(umrt_ctx_new(on->model, &params, &on->scheduled)));
  REQUIRE(CHECK_OK(umrt_scheduler_new(on->scheduled, NULL, &on->scheduler)));
  umrt_generate_params generation = of_prompt(on);
  generation.max_tokens = N_MORE + 1;
  CHECK_OK(umrt_generate(on->shared, &generation, NULL, NULL, NULL, NULL));
  REQUIRE(CHECK_OK(umrt_seq_tokens(on->shared, 0, tokens, N_CTX, &n)));
  memcpy(on->expected, tokens + N_PROMPT, sizeof on->expected);
}

static void release(subject *on) {
  umrt_scheduler_free(on->scheduler);
  umrt_ctx_free(on->scheduled);
  umrt_ctx_free(on->shared);
  umrt_model_free(on->model);
}

/* Ends the program when a thread hangs. */
static void watch(long seconds, long patience) {
  long n_before[N_THREADS] = {0}, idle[N_THREADS] = {0};
  for (long second = 0; second < seconds; second++) {
    sleep(1);
    for (int i = 0; i < N_THREADS; i++) {
      const long n_done = atomic_load(&workers[i].n_done);
      idle[i] = n_done == n_before[i] ? idle[i] + 1 : 0;
      n_before[i] = n_done;
      if (idle[i] < patience) continue;
      fprintf(stderr, "thread %d hangs\n", i);
      abort();
    }
  }
  atomic_store(&is_over, 1);
  alarm((unsigned)patience);
  for (int i = 0; i < N_THREADS; i++) pthread_join(workers[i].thread, NULL);
  alarm(0);
}

static long number(int argc, char **argv, int index, long otherwise) {
  return index < argc ? strtol(argv[index], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
  const long seconds = number(argc, argv, 2, SECONDS);
  const long patience = number(argc, argv, 3, PATIENCE_SECONDS);
  REQUIRE(CHECK(argc > 1 && seconds > 0 && patience > 0));
  const char *paths[N_MODELS] = {argv[1], CHAT_MODEL, MODELS "qwen2-q5-g32-f16",
                                 MODELS "mixtral-q4-g32-bf16"};
  long n_done = 0;
  for (int i = 0; i < N_MODELS; i++) prepare(&subjects[i], paths[i]);
  for (int i = 0; i < N_THREADS; i++) {
    workers[i].random = 0x9e3779b97f4a7c15u * (uint64_t)(i + 1);
    REQUIRE(CHECK_OK(umrt_cancel_new(&workers[i].cancel)));
  }
  for (int i = 0; i < N_THREADS; i++)
    REQUIRE(CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0));
  watch(seconds, patience);
  for (int i = 0; i < N_THREADS; i++) {
    n_done += workers[i].n_done;
    umrt_cancel_free(workers[i].cancel);
  }
  for (int i = 0; i < N_MODELS; i++) release(&subjects[i]);
  const umrt_memory_info memory = process_memory();
  CHECK_EQUAL(0, memory.weights_mapped_bytes);
  CHECK_EQUAL(0, memory.kv_reserved_bytes);
  CHECK_EQUAL(0, memory.logits_bytes);
  CHECK_EQUAL(0, memory.mlx_active_bytes);
  CHECK(n_busy > 0 && n_cancelled > 0);
  printf("stress [%ld, %d, %d, %ld, %ld, %ld, %ld]\n", seconds, N_THREADS, N_MODELS, n_done,
         n_busy, n_cancelled, n_late);
  return check_summary(__FILE__);
}
