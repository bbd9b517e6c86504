/* Handles are freed in any order, and opening and closing leaves nothing behind. */

#include "fixtures.h"

#include <dirent.h>

enum { MODEL, CONTEXT, SAMPLER, DETOK, CANCEL, N_HANDLES };

typedef struct {
  umrt_model *model;
  umrt_ctx *ctx;
  umrt_sampler *sampler;
  umrt_detok *detok;
  umrt_cancel *cancel;
} handles;

static handles open_all(void) {
  handles all = {.model = open_model(CHAT_MODEL)};
  all.ctx = new_context(all.model, 0);
  all.sampler = new_sampler(1, 1);
  CHECK_OK(umrt_detok_new(all.model, &all.detok));
  CHECK_OK(umrt_cancel_new(&all.cancel));
  return all;
}

/* Uses every handle that is still there. */
static void use(const handles *all) {
  const int32_t tokens[] = {299, 35, 10};
  const char *text;
  size_t length;
  int32_t token;
  umrt_batch batch = UMRT_BATCH_INIT;
  umrt_model_info info = UMRT_MODEL_INFO_INIT;
  batch.tokens = tokens;
  batch.n_tokens = 3;
  if (all->model) CHECK_OK(umrt_model_info_get(all->model, &info));
  if (all->ctx) CHECK_OK(umrt_eval(all->ctx, &batch, all->cancel, NULL));
  if (all->ctx && all->sampler) CHECK_OK(umrt_sample(all->ctx, all->sampler, 0, &token));
  if (all->detok) CHECK_OK(umrt_detok_push(all->detok, 64, &text, &length));
}

static void free_one(handles *all, int which) {
  switch (which) {
    case MODEL: umrt_model_free(all->model); all->model = NULL; break;
    case CONTEXT: umrt_ctx_free(all->ctx); all->ctx = NULL; break;
    case SAMPLER: umrt_sampler_free(all->sampler); all->sampler = NULL; break;
    case DETOK: umrt_detok_free(all->detok); all->detok = NULL; break;
    default: umrt_cancel_free(all->cancel); all->cancel = NULL; break;
  }
}

/* The `index`-th order of all handles. */
static void nth_order(int index, int order[N_HANDLES]) {
  for (int i = 0; i < N_HANDLES; i++) order[i] = i;
  for (int i = N_HANDLES; i > 1; index /= i, i--) {
    const int swapped = order[index % i];
    order[index % i] = order[i - 1];
    order[i - 1] = swapped;
  }
}

static void handles_are_freed_in_any_order(void) {
  int order[N_HANDLES];
  for (int index = 0; index < 120; index++) {
    handles all = open_all();
    nth_order(index, order);
    use(&all);
    for (int i = 0; i < N_HANDLES; i++) {
      free_one(&all, order[i]);
      use(&all);
    }
  }
}

static void closed_models_and_contexts_leave_the_ledger(void) {
  const umrt_memory_info memory = process_memory();
  CHECK_EQUAL(0, memory.weights_mapped_bytes);
  CHECK_EQUAL(0, memory.weights_resident_bytes);
  CHECK_EQUAL(0, memory.weights_copied_bytes);
  CHECK_EQUAL(0, memory.kv_reserved_bytes);
  CHECK_EQUAL(0, memory.kv_used_bytes);
  CHECK_EQUAL(0, memory.logits_bytes);
  CHECK_EQUAL(0, memory.mlx_active_bytes);
}

static int entries_of(const char *directory) {
  int n = 0;
  DIR *dir = opendir(directory);
  REQUIRE(CHECK(dir != NULL));
  while (readdir(dir) != NULL) n++;
  closedir(dir);
  return n;
}

static int n_threads(void) {
#ifdef __linux__
  return entries_of("/proc/self/task");
#else
  return 0;
#endif
}

static void cycle(void) {
  handles all = open_all();
  collected out = {.n_calls = 0};
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "Once";
  params.max_tokens = 4;
  CHECK_OK(umrt_generate(all.ctx, &params, collect, &out, all.cancel, NULL));
  for (int i = 0; i < N_HANDLES; i++) free_one(&all, i);
}

static void cycles_leave_nothing_behind(void) {
  enum { WARM_UP = 40, CYCLES = 160 };
  for (int i = 0; i < WARM_UP; i++) cycle();
  const int fds = entries_of("/dev/fd");
  const int threads = n_threads();
  const uint64_t anonymous = process_memory().process_anonymous_bytes;
  for (int i = 0; i < CYCLES; i++) cycle();
  CHECK_EQUAL(fds, entries_of("/dev/fd"));
  CHECK_EQUAL(threads, n_threads());
  /* Less than two pages per cycle: no handle or cache is left. */
  CHECK(process_memory().process_anonymous_bytes < anonymous + CYCLES * 8192);
}

static void failed_opens_leave_nothing_behind(void) {
  umrt_model *model;
  const int fds = entries_of("/dev/fd");
  for (int i = 0; i < 50; i++) {
    CHECK_STATUS(UMRT_NOT_FOUND, umrt_model_open("no/model", NULL, &model));
    CHECK(model == NULL);
  }
  CHECK_EQUAL(fds, entries_of("/dev/fd"));
}

static void remember(size_t done, size_t total, void *userdata) {
  size_t *last = userdata;
  CHECK(done >= last[0] && done <= total);
  last[0] = done;
  last[1] = total;
}

static void opening_reports_progress_and_can_be_cancelled(void) {
  size_t last[2] = {0, 0};
  umrt_model *model;
  umrt_cancel *cancel;
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  CHECK_OK(umrt_cancel_new(&cancel));
  params.progress = remember;
  params.progress_userdata = last;
  params.cancel = cancel;
  CHECK_OK(umrt_model_open(CHAT_MODEL, &params, &model));
  CHECK(last[1] > 0);
  CHECK_EQUAL(last[1], last[0]);
  umrt_model_free(model);
  umrt_cancel_trigger(cancel);
  last[0] = 0;
  CHECK_STATUS(UMRT_CANCELLED, umrt_model_open(CHAT_MODEL, &params, &model));
  CHECK(model == NULL);
  umrt_cancel_reset(cancel);
  last[0] = 0;
  CHECK_OK(umrt_model_open(CHAT_MODEL, &params, &model));
  umrt_model_free(model);
  umrt_cancel_free(cancel);
}

int main(void) {
  handles_are_freed_in_any_order();
  opening_reports_progress_and_can_be_cancelled();
  closed_models_and_contexts_leave_the_ledger();
  cycles_leave_nothing_behind();
  failed_opens_leave_nothing_behind();
  closed_models_and_contexts_leave_the_ledger();
  return check_summary(__FILE__);
}
