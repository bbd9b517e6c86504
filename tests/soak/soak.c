/* soak MODEL LARGE_MODEL N_TOKENS N_CONTEXTS N_OPENS N_STOPS
 *
 * Does the same thing very often and prints what is left of it: private memory,
 * descriptors and threads, after a tenth of the rounds for warming up and at the end.
 * Then measures how long prompts of LARGE_MODEL take to stop when they are told to. */

#include "../c/check.h"

#include <dirent.h>
#include <pthread.h>
#include <time.h>

enum {
  ALLOWED_GROWTH = 1 << 20,
  ROLLING_TOKENS = 512,
  N_PROMPT = 4096,
  LONGEST_DELAY_MS = 2000,
};

typedef struct {
  uint64_t anonymous;
  int files;
  int threads;
} footprint;

static int n_entries(const char *path) {
  int n = 0;
  DIR *directory = opendir(path);
  REQUIRE(CHECK(directory != NULL));
  while (readdir(directory) != NULL) n++;
  closedir(directory);
  return n;
}

static footprint measure(void) {
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  CHECK_OK(umrt_memory_stats(&memory));
  return (footprint){
      .anonymous = memory.process_anonymous_bytes,
      .files = n_entries("/dev/fd"),
#ifdef __linux__
      .threads = n_entries("/proc/self/task"),
#endif
  };
}

typedef struct {
  const char *what;
  void (*round)(void *state);
  void *state;
  long n_rounds;
} load;

static void run(load load) {
  const long n_warm = load.n_rounds / 10 + 1;
  for (long i = 0; i < n_warm; i++) load.round(load.state);
  const footprint warm = measure();
  for (long i = n_warm; i < load.n_rounds; i++) load.round(load.state);
  const footprint end = measure();
  const double growth = ((double)end.anonymous - (double)warm.anonymous) / 1024;
  printf("left-behind [\"%s\", %ld, %.1f, %.0f, %d, %d]\n", load.what, load.n_rounds,
         (double)warm.anonymous / (1 << 20), growth, end.files - warm.files,
         end.threads - warm.threads);
  fflush(stdout);
  CHECK(growth * 1024 < ALLOWED_GROWTH);
  CHECK_EQUAL(warm.files, end.files);
  CHECK_EQUAL(warm.threads, end.threads);
}

static umrt_model *open_model(const char *path) {
  umrt_model *model = NULL;
  REQUIRE(CHECK_OK(umrt_model_open(path, NULL, &model)));
  return model;
}

static umrt_ctx *new_context(const umrt_model *model, umrt_ctx_params params) {
  umrt_ctx *ctx = NULL;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  return ctx;
}

static umrt_status eval(umrt_ctx *ctx, const int32_t *tokens, uint32_t n) {
  umrt_batch batch = UMRT_BATCH_INIT;
  batch.tokens = tokens;
  batch.n_tokens = n;
  return umrt_eval(ctx, &batch, NULL, NULL);
}

typedef struct {
  umrt_ctx *ctx;
  umrt_sampler *sampler;
  int32_t token;
} writer;

static void write_token(void *state) {
  writer *writer = state;
  CHECK_OK(eval(writer->ctx, &writer->token, 1));
  CHECK_OK(umrt_sample(writer->ctx, writer->sampler, 0, &writer->token));
}

static void tokens_over_a_rolling_context(const char *path, long n_tokens) {
  umrt_model *model = open_model(path);
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  umrt_sampler_params sampling = UMRT_SAMPLER_PARAMS_INIT;
  params.n_ctx = ROLLING_TOKENS;
  params.overflow = UMRT_OVERFLOW_SHIFT;
  sampling.temperature = 1;
  sampling.seed = 1;
  writer writer = {.ctx = new_context(model, params), .token = 1};
  CHECK_OK(umrt_sampler_new(&sampling, &writer.sampler));
  run((load){"tokens over a rolling context", write_token, &writer, n_tokens});
  umrt_sampler_free(writer.sampler);
  umrt_ctx_free(writer.ctx);
  umrt_model_free(model);
}

static void use_context(void *model) {
  const int32_t tokens[] = {1, 2, 3};
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = ROLLING_TOKENS;
  umrt_ctx *ctx = new_context(model, params);
  CHECK_OK(eval(ctx, tokens, 3));
  umrt_ctx_free(ctx);
}

static void contexts_of_one_model(const char *path, long n_contexts) {
  umrt_model *model = open_model(path);
  run((load){"contexts made, used and freed", use_context, model, n_contexts});
  umrt_model_free(model);
}

static void use_model(void *path) {
  size_t n_tokens;
  umrt_model *model = open_model(path);
  CHECK_STATUS(UMRT_NO_SPACE, umrt_tokenize(model, "Once", 4, 0, NULL, 0, &n_tokens));
  use_context(model);
  umrt_model_free(model);
}

typedef struct {
  umrt_cancel *cancel;
  struct timespec delay;
  struct timespec triggered;
} trigger;

static void *trigger_later(void *state) {
  trigger *trigger = state;
  nanosleep(&trigger->delay, NULL);
  clock_gettime(CLOCK_MONOTONIC, &trigger->triggered);
  umrt_cancel_trigger(trigger->cancel);
  return NULL;
}

static struct timespec now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time;
}

static double ms_between(struct timespec from, struct timespec to) {
  return (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) / 1e6;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The prompt behind nothing. */
static umrt_status eval_prompt(umrt_ctx *ctx, umrt_cancel *cancel, uint32_t deadline_ms) {
  static int32_t prompt[N_PROMPT];
  umrt_batch batch = UMRT_BATCH_INIT;
  for (int i = 0; i < N_PROMPT; i++) prompt[i] = i % 100;
  batch.tokens = prompt;
  batch.n_tokens = N_PROMPT;
  batch.deadline_ms = deadline_ms;
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  return umrt_eval(ctx, &batch, cancel, NULL);
}

/* Milliseconds from a trigger at some point of a prompt to the end of its evaluation;
 * below 0 if that was over before. */
static double ms_to_stop(umrt_ctx *ctx, umrt_cancel *cancel, uint32_t after_ms) {
  trigger trigger = {.cancel = cancel, .delay = {after_ms / 1000, after_ms % 1000 * 1000000}};
  pthread_t thread;
  umrt_cancel_reset(cancel);
  REQUIRE(CHECK(pthread_create(&thread, NULL, trigger_later, &trigger) == 0));
  const umrt_status status = eval_prompt(ctx, cancel, 0);
  const struct timespec end = now();
  pthread_join(thread, NULL);
  CHECK(status == UMRT_OK || status == UMRT_CANCELLED);
  return status == UMRT_CANCELLED ? ms_between(trigger.triggered, end) : -1;
}

/* As `ms_to_stop`, from the deadline on. */
static double ms_behind_deadline(umrt_ctx *ctx, umrt_cancel *unused, uint32_t deadline_ms) {
  (void)unused;
  const struct timespec start = now();
  const umrt_status status = eval_prompt(ctx, NULL, deadline_ms);
  const double elapsed = ms_between(start, now());
  CHECK(status == UMRT_OK || status == UMRT_DEADLINE_EXCEEDED);
  return status == UMRT_DEADLINE_EXCEEDED ? elapsed - deadline_ms : -1;
}

typedef double (*stopping)(umrt_ctx *ctx, umrt_cancel *cancel, uint32_t after_ms);

/* Stops `n` prompts, spread over the first `span_ms`. */
static void stop_often(const umrt_model_info *model, const char *what, stopping stop,
                       umrt_ctx *ctx, uint32_t chunk, uint32_t span_ms, long n) {
  double *ms = calloc((size_t)n, sizeof *ms);
  umrt_cancel *cancel;
  long n_stopped = 0;
  REQUIRE(CHECK(ms != NULL) && CHECK_OK(umrt_cancel_new(&cancel)));
  for (long i = 0; i < n; i++) {
    const double to_stop = stop(ctx, cancel, 1 + (uint32_t)(span_ms * i / n));
    if (to_stop >= 0) ms[n_stopped++] = to_stop;
  }
  REQUIRE(CHECK(n_stopped > 0));
  qsort(ms, (size_t)n_stopped, sizeof *ms, by_value);
  printf("stopping [\"%s, %.3gB, %u bits\", \"%s\", %u, %ld, %.1f, %.1f, %.1f]\n",
         model->model_type, (double)model->n_parameters / 1e9, model->quant_bits, what, chunk,
         n_stopped, ms[n_stopped / 2], ms[(n_stopped * 99 + 99) / 100 - 1], ms[n_stopped - 1]);
  fflush(stdout);
  free(ms);
  umrt_cancel_free(cancel);
}

static void stops_of_prompts(const char *path, long n_stops) {
  static const uint32_t chunks[] = {64, 512, N_PROMPT};
  umrt_model *model = open_model(path);
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  CHECK_OK(umrt_model_info_get(model, &info));
  for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
    umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
    params.n_ctx = N_PROMPT;
    params.prefill_chunk = chunks[i];
    umrt_ctx *ctx = new_context(model, params);
    const struct timespec start = now();
    const umrt_status warm = eval_prompt(ctx, NULL, LONGEST_DELAY_MS);
    CHECK(warm == UMRT_OK || warm == UMRT_DEADLINE_EXCEEDED);
    const uint32_t span_ms = (uint32_t)ms_between(start, now());
    stop_often(&info, "umrt_cancel_trigger", ms_to_stop, ctx, chunks[i], span_ms, n_stops);
    stop_often(&info, "deadline_ms", ms_behind_deadline, ctx, chunks[i], span_ms, n_stops);
    umrt_ctx_free(ctx);
  }
  umrt_model_free(model);
}

static long number(const char *text) {
  const long n = strtol(text, NULL, 10);
  REQUIRE(CHECK(n > 0));
  return n;
}

int main(int argc, char **argv) {
  REQUIRE(CHECK_EQUAL(7, argc));
  tokens_over_a_rolling_context(argv[1], number(argv[3]));
  contexts_of_one_model(argv[1], number(argv[4]));
  run((load){"models opened, used and closed", use_model, argv[1], number(argv[5])});
  stops_of_prompts(argv[2], number(argv[6]));
  return check_summary(__FILE__);
}
