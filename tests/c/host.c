/* The library is a guest: signals, locale, directories, environment and streams
 * of the process stay as they were. */

#include "fixtures.h"

#include <float.h>
#include <locale.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

enum { N_SIGNALS = 65, MAX_ENVIRONMENT = 1 << 16 };

/* What belongs to the host. */
typedef struct {
  void (*handlers[N_SIGNALS])(int);
  int handler_flags[N_SIGNALS];
  int blocked[N_SIGNALS];
  int alternate_stack_flags;
  void *alternate_stack;
  char locale[256];
  char directory[1024];
  char environment[MAX_ENVIRONMENT];
  mode_t umask;
  float third;
  float denormal;
} host_state;

static void record_signals(host_state *state) {
  sigset_t blocked;
  stack_t stack;
  pthread_sigmask(SIG_SETMASK, NULL, &blocked);
  for (int number = 1; number < N_SIGNALS; number++) {
    struct sigaction action;
    if (sigaction(number, NULL, &action) != 0) continue;
    state->handlers[number] = action.sa_handler;
    state->handler_flags[number] = action.sa_flags;
    state->blocked[number] = sigismember(&blocked, number);
  }
  sigaltstack(NULL, &stack);
  state->alternate_stack_flags = stack.ss_flags;
  state->alternate_stack = stack.ss_sp;
}

static void record(host_state *state) {
  size_t length = 0;
  memset(state, 0, sizeof *state);
  record_signals(state);
  snprintf(state->locale, sizeof state->locale, "%s", setlocale(LC_ALL, NULL));
  CHECK(getcwd(state->directory, sizeof state->directory) != NULL);
  for (char **entry = environ; *entry != NULL && length < MAX_ENVIRONMENT; entry++)
    length +=
        (size_t)snprintf(state->environment + length, MAX_ENVIRONMENT - length, "%s\n", *entry);
  state->umask = umask(0);
  umask(state->umask);
  volatile float number = 1;
  state->third = number / 3;
  number = FLT_MIN;
  state->denormal = number / 2;
}

static void check_unchanged(const host_state *before) {
  static host_state after;
  record(&after);
  for (int number = 1; number < N_SIGNALS; number++) {
    CHECK(before->handlers[number] == after.handlers[number]);
    CHECK_EQUAL(before->handler_flags[number], after.handler_flags[number]);
    CHECK_EQUAL(before->blocked[number], after.blocked[number]);
  }
  CHECK_EQUAL(before->alternate_stack_flags, after.alternate_stack_flags);
  CHECK(before->alternate_stack == after.alternate_stack);
  CHECK_TEXT(before->locale, after.locale);
  CHECK_TEXT(before->directory, after.directory);
  CHECK_TEXT(before->environment, after.environment);
  CHECK_EQUAL(before->umask, after.umask);
  /* Rounding and denormal numbers are modes of the thread. */
  CHECK(before->third == after.third);
  CHECK(before->denormal == after.denormal && after.denormal > 0);
}

static void use_the_library(void) {
  collected out = {.n_calls = 0};
  umrt_model *missing;
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx *ctx = new_context(model, 0);
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.chat = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}";
  params.max_tokens = 8;
  CHECK_OK(umrt_generate(ctx, &params, collect, &out, NULL, NULL));
  CHECK_STATUS(UMRT_NOT_FOUND, umrt_model_open("no/model", NULL, &missing));
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

static void nothing_of_the_host_changes(void) {
  static host_state before;
  record(&before);
  use_the_library();
  check_unchanged(&before);
}

static void ignore(int number) { (void)number; }

static void handlers_of_the_host_stay(void) {
  static host_state before;
  struct sigaction action = {.sa_handler = ignore};
  const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGPIPE, SIGINT};
  for (int i = 0; i < 6; i++) CHECK_EQUAL(0, sigaction(numbers[i], &action, NULL));
  record(&before);
  use_the_library();
  check_unchanged(&before);
}

static void a_model_opened_by_a_relative_path_survives_chdir(void) {
  char root[1024];
  size_t n_tokens = 0;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_model *model = open_model(CHAT_MODEL);
  REQUIRE(CHECK(getcwd(root, sizeof root) != NULL));
  CHECK_EQUAL(0, chdir("/"));
  /* The tokenizer is read only now. */
  CHECK_STATUS(UMRT_NO_SPACE, umrt_tokenize(model, "Once", 4, 0, NULL, 0, &n_tokens));
  CHECK(n_tokens > 0);
  CHECK_OK(umrt_model_memory_stats(model, &memory));
  CHECK(memory.weights_mapped_bytes > 0);
  umrt_model_free(model);
  CHECK_EQUAL(0, chdir(root));
}

int main(void) {
  nothing_of_the_host_changes();
  handlers_of_the_host_stay();
  a_model_opened_by_a_relative_path_survives_chdir();
  return check_summary(__FILE__);
}
