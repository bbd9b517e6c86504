/* umrt's own threads: as many as asked for, shared, deaf to the host's signals,
 * and gone with the last handle that uses them. */

#include "fixtures.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static const int32_t tokens[] = {299, 35, 10, 38};

#ifdef __linux__
/* Threads named umrt-1 and so on. */
static int n_workers(void) {
  int n = 0;
  const struct dirent *entry;
  DIR *tasks = opendir("/proc/self/task");
  REQUIRE(CHECK(tasks != NULL));
  while ((entry = readdir(tasks)) != NULL) {
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
    FILE *file = fopen(path, "r");
    if (file == NULL) continue;
    if (fgets(name, sizeof name, file) != NULL) n += strncmp(name, "umrt-", 5) == 0;
    fclose(file);
  }
  closedir(tasks);
  return n;
}
#endif

/* A thread gives itself its name, and may end a little after it was joined.
 * Where there is no /proc nobody counts. */
static void check_workers(int expected) {
#ifdef __linux__
  enum { PATIENCE_MILLISECONDS = 5000 };
  for (int i = 0; i < PATIENCE_MILLISECONDS && n_workers() != expected; i++)
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  CHECK_EQUAL(expected, n_workers());
#else
  (void)expected;
#endif
}

static umrt_ctx *context_with(const umrt_model *model, uint32_t n_threads) {
  umrt_ctx *ctx = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_threads = n_threads;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  return ctx;
}

static uint32_t n_threads_of(const umrt_ctx *ctx) {
  umrt_ctx_info info = UMRT_CTX_INFO_INIT;
  CHECK_OK(umrt_ctx_info_get(ctx, &info));
  return info.n_threads;
}

static void contexts_have_the_threads_they_ask_for(umrt_model *model) {
  umrt_ctx *one = context_with(model, 1);
  CHECK_EQUAL(1, n_threads_of(one));
  check_workers(0);
  umrt_ctx *four = context_with(model, 4);
  CHECK_EQUAL(4, n_threads_of(four));
  check_workers(3);
  umrt_ctx *also_four = context_with(model, 4);
  check_workers(3);
  umrt_ctx *three = context_with(model, 3);
  check_workers(3 + 2);
  umrt_ctx *all[] = {one, four, also_four, three};
  for (int i = 0; i < 4; i++) CHECK_OK(eval_tokens(all[i], tokens, 4));
  umrt_ctx_free(four);
  check_workers(3 + 2);
  umrt_ctx_free(also_four);
  check_workers(2);
  umrt_ctx_free(three);
  umrt_ctx_free(one);
  check_workers(0);
}

static void the_default_is_within_what_the_process_may_use(umrt_model *model) {
  umrt_ctx *ctx = context_with(model, 0);
  const long n_online = sysconf(_SC_NPROCESSORS_ONLN);
  CHECK(n_threads_of(ctx) >= 1 && (long)n_threads_of(ctx) <= n_online);
  umrt_ctx_free(ctx);
}

static void absurd_numbers_are_refused(umrt_model *model) {
  umrt_ctx *ctx;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_threads = 1025;
  CHECK_FAILS(UMRT_INVALID_ARGUMENT, "n_threads is 1025", umrt_ctx_new(model, &params, &ctx));
  CHECK_CONTAINS("1024", umrt_last_error());
  CHECK(ctx == NULL);
  check_workers(0);
}

static void without_kernels_there_is_one_thread(void) {
  umrt_model *model;
  umrt_model_params params = UMRT_MODEL_PARAMS_INIT;
  params.cpu_ops = UMRT_CPU_OPS_STOCK;
  CHECK_OK(umrt_model_open(CHAT_MODEL, &params, &model));
  umrt_ctx *ctx = context_with(model, 4);
  CHECK_EQUAL(1, n_threads_of(ctx));
  check_workers(0);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

static pthread_t host_thread;
static volatile sig_atomic_t n_on_host, n_elsewhere;

static void count_signal(int signal) {
  (void)signal;
  if (pthread_equal(pthread_self(), host_thread))
    n_on_host++;
  else
    n_elsewhere++;
}

/* While the only thread of the host's blocks it, a signal to the process would
 * go to any other thread that does not. */
static void signals_of_the_process_stay_on_the_hosts_threads(umrt_model *model) {
  sigset_t usr1;
  struct sigaction action = {.sa_handler = count_signal};
  umrt_ctx *ctx = context_with(model, 3);
  CHECK_OK(eval_tokens(ctx, tokens, 4));
  host_thread = pthread_self();
  CHECK_EQUAL(0, sigaction(SIGUSR1, &action, NULL));
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  CHECK_EQUAL(0, pthread_sigmask(SIG_BLOCK, &usr1, NULL));
  CHECK_EQUAL(0, kill(getpid(), SIGUSR1));
  for (int i = 0; i < 50; i++) CHECK_OK(eval_tokens(ctx, tokens, 4));
  CHECK_EQUAL(0, n_on_host);
  CHECK_EQUAL(0, n_elsewhere);
  CHECK_EQUAL(0, pthread_sigmask(SIG_UNBLOCK, &usr1, NULL));
  CHECK_EQUAL(1, n_on_host);
  CHECK_EQUAL(0, n_elsewhere);
  umrt_ctx_free(ctx);
}

int main(void) {
  umrt_model *model = open_model(CHAT_MODEL);
  contexts_have_the_threads_they_ask_for(model);
  the_default_is_within_what_the_process_may_use(model);
  absurd_numbers_are_refused(model);
  without_kernels_there_is_one_thread();
  signals_of_the_process_stay_on_the_hosts_threads(model);
  check_workers(0);
  umrt_model_free(model);
  return check_summary(__FILE__);
}
