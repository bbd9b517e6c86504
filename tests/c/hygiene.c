/* What the library leaves in the process: no output, no open file, no thread of its
 * own, and the processor's floating-point modes as they were. host.c has the rest. */

#include "fixtures.h"

#include <dirent.h>
#include <fcntl.h>
#include <fenv.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

/* The modes, without the flags that any computation raises. */
typedef struct {
  int rounding;
  unsigned control;
} float_modes;

static float_modes current_modes(void) {
  float_modes modes = {.rounding = fegetround()};
#ifdef __SSE__
  const unsigned raised = 0x3f;
  modes.control = _mm_getcsr() & ~raised;
#endif
  return modes;
}

/* Succeeds and fails, in all kinds of calls that compute, read and write. */
static void use_the_library(void) {
  collected out = {.n_calls = 0};
  umrt_model *missing;
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx *ctx = new_context(model, 0);
  const int32_t no_token = -1;
  size_t n_bytes;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.prompt = "Once";
  params.max_tokens = 8;
  CHECK_OK(umrt_generate(ctx, &params, collect, &out, NULL, NULL));
  CHECK_STATUS(UMRT_NO_SPACE, umrt_seq_save_to_buffer(ctx, 0, NULL, 0, &n_bytes));
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, eval_tokens(ctx, &no_token, 1));
  CHECK_STATUS(UMRT_NOT_FOUND, umrt_model_open("no/model", NULL, &missing));
  CHECK(umrt_model_open("tests/c/hygiene.c", NULL, &missing) != UMRT_OK);
  params.chat = "no JSON";
  params.prompt = NULL;
  CHECK_STATUS(UMRT_INVALID_ARGUMENT, umrt_generate(ctx, &params, collect, &out, NULL, NULL));
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

/* Both streams go to a file meanwhile, which has to stay empty. */
static void nothing_is_written_to_the_hosts_streams(void) {
  char path[] = "/tmp/umrt-hygiene-XXXXXX";
  struct stat written;
  const int file = mkstemp(path);
  REQUIRE(CHECK(file >= 0));
  unlink(path);
  fflush(NULL);
  const int streams[] = {dup(STDOUT_FILENO), dup(STDERR_FILENO)};
  dup2(file, STDOUT_FILENO);
  dup2(file, STDERR_FILENO);
  use_the_library();
  fflush(NULL);
  dup2(streams[0], STDOUT_FILENO);
  dup2(streams[1], STDERR_FILENO);
  CHECK_EQUAL(0, fstat(file, &written));
  CHECK_EQUAL(0, written.st_size);
  close(streams[0]);
  close(streams[1]);
  close(file);
}

static void modes_of_the_processor_stay(void) {
  const int roundings[] = {FE_UPWARD, FE_TOWARDZERO, FE_TONEAREST};
  for (int i = 0; i < 3; i++) {
    CHECK_EQUAL(0, fesetround(roundings[i]));
    const float_modes before = current_modes();
    use_the_library();
    const float_modes after = current_modes();
    CHECK_EQUAL(before.rounding, after.rounding);
    CHECK_EQUAL(before.control, after.control);
  }
}

static int n_open_files(void) {
  int n = 0;
  DIR *files = opendir("/dev/fd");
  REQUIRE(CHECK(files != NULL));
  while (readdir(files) != NULL) n++;
  closedir(files);
  return n;
}

/* Threads of the library's pools; MLX keeps one for each stream. */
static int n_own_threads(void) {
  int n = 0;
#ifdef __linux__
  DIR *threads = opendir("/proc/self/task");
  REQUIRE(CHECK(threads != NULL));
  for (struct dirent *thread; (thread = readdir(threads)) != NULL;) {
    char path[300], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", thread->d_name);
    FILE *comm = fopen(path, "r");
    if (comm == NULL) continue;
    if (fgets(name, sizeof name, comm) != NULL) n += strncmp(name, "umrt", 4) == 0;
    fclose(comm);
  }
  closedir(threads);
#endif
  return n;
}

int main(void) {
  const int n_files = n_open_files();
  nothing_is_written_to_the_hosts_streams();
  CHECK_EQUAL(n_files, n_open_files());
  CHECK_EQUAL(0, n_own_threads());
  modes_of_the_processor_stay();
  CHECK_EQUAL(n_files, n_open_files());
  return check_summary(__FILE__);
}
