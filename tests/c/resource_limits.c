/* Under the system's limits a process gets a status and goes on: what does not
 * fit is refused, and what was admitted can be filled to its end. */

#include "fixtures.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__linux__)

enum { TOO_LONG_SECONDS = 120, N_CTX = 256, TOO_MANY = 1 << 20 };

/* Bytes that the process has of what a line of /proc/self/status counts. */
static rlim_t used(const char *key) {
  char line[256];
  unsigned long long kib = 0;
  FILE *status = fopen("/proc/self/status", "r");
  REQUIRE(CHECK(status != NULL));
  while (fgets(line, sizeof line, status) != NULL)
    if (strncmp(line, key, strlen(key)) == 0) kib = strtoull(line + strlen(key), NULL, 10);
  fclose(status);
  return (rlim_t)kib * 1024;
}

static void limit(int resource, rlim_t bytes) {
  const struct rlimit both = {.rlim_cur = bytes, .rlim_max = bytes};
  REQUIRE(CHECK_EQUAL(0, setrlimit(resource, &both)));
}

/* One token for each sequence takes a block of keys and values for each. */
static void fill(umrt_ctx *ctx, uint32_t n_seq) {
  umrt_batch batch = UMRT_BATCH_INIT;
  int32_t *ids = malloc(n_seq * sizeof *ids);
  int32_t *tokens = calloc(n_seq, sizeof *tokens);
  REQUIRE(CHECK(ids != NULL && tokens != NULL));
  for (uint32_t i = 0; i < n_seq; i++) ids[i] = (int32_t)i;
  batch.tokens = tokens;
  batch.seq_ids = ids;
  batch.n_tokens = n_seq;
  for (int step = 0; step < 2; step++) CHECK_OK(umrt_eval(ctx, &batch, NULL, NULL));
  free(ids);
  free(tokens);
}

/* Threads take memory too; those of the first context are there afterwards. */
static void start_threads(const umrt_model *model) {
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  umrt_ctx *ctx;
  params.n_ctx = N_CTX;
  params.n_threads = 2;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  fill(ctx, 1);
  umrt_ctx_free(ctx);
}

/* `reason` is what the refusal names. */
static void refuses_and_goes_on(const char *reason) {
  umrt_memory_estimate found = UMRT_MEMORY_ESTIMATE_INIT;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx *ctx;
  start_threads(model);
  params.n_ctx = N_CTX;
  params.n_seq = TOO_MANY;
  params.n_threads = 2;
  CHECK_FAILS(UMRT_OVER_BUDGET, reason, umrt_ctx_new(model, &params, &ctx));
  const char *instead = strstr(umrt_last_error(), "n_seq ");
  REQUIRE(CHECK(instead != NULL));
  const uint32_t most = (uint32_t)strtoul(instead + strlen("n_seq "), NULL, 10);
  CHECK(most > 0 && most < TOO_MANY);
  /* What the system itself takes of the limit moves by some pages. */
  const uint32_t n_seq = most - most / 50;
  CHECK_OK(umrt_model_estimate(CHAT_MODEL, NULL, &params, &found));
  CHECK_EQUAL(0, found.fits);
  params.n_seq = n_seq;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  fill(ctx, n_seq);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

static void with_little_address_space(void) {
  limit(RLIMIT_AS, used("VmSize:") + ((rlim_t)600 << 20));
  refuses_and_goes_on("ulimit -v");
}

static void with_little_private_memory(void) {
  limit(RLIMIT_DATA, used("VmData:") + ((rlim_t)200 << 20));
  refuses_and_goes_on("ulimit -d");
}

static void with_next_to_nothing(void) {
  umrt_model *model;
  limit(RLIMIT_AS, used("VmSize:") + ((rlim_t)16 << 20));
  CHECK_STATUS(UMRT_OVER_BUDGET, umrt_model_open(CHAT_MODEL, NULL, &model));
  CHECK_CONTAINS("ulimit -v", umrt_last_error());
}

/* A group of its own, version 1 or 2, as far as this user may make one. */
static const char *const group_places[][2] = {
    {"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
    {"/sys/fs/cgroup", "memory.max"},
};
static char group[128];

static int write_in_group(const char *name, long long value) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", group, name);
  FILE *file = fopen(path, "w");
  if (file == NULL) return 0;
  const int written = fprintf(file, "%lld", value) > 0;
  return fclose(file) == 0 && written;
}

static int make_group(long long bytes) {
  for (size_t i = 0; i < sizeof group_places / sizeof *group_places; i++) {
    snprintf(group, sizeof group, "%s/umrt-test-%ld", group_places[i][0], (long)getpid());
    if (mkdir(group, 0755) != 0) continue;
    if (write_in_group(group_places[i][1], bytes)) return 1;
    rmdir(group);
  }
  return 0;
}

static void in_a_small_group(void) {
  if (!write_in_group("cgroup.procs", (long long)getpid())) {
    printf("  skipped: this process may not move into a control group\n");
    return;
  }
  refuses_and_goes_on("control group");
}

static void in_child(void (*body)(void)) {
  int ending = -1;
  fflush(NULL);
  const pid_t child = fork();
  REQUIRE(CHECK(child >= 0));
  if (child == 0) {
    alarm(TOO_LONG_SECONDS);
    body();
    exit(check_n_failed > 0);
  }
  CHECK_EQUAL(child, waitpid(child, &ending, 0));
  if (!CHECK(WIFEXITED(ending) && WEXITSTATUS(ending) == 0))
    fprintf(stderr, "  the child ended with %#x\n", (unsigned)ending);
}

int main(void) {
  in_child(with_little_address_space);
  in_child(with_little_private_memory);
  in_child(with_next_to_nothing);
  if (make_group(200LL << 20)) {
    in_child(in_a_small_group);
    CHECK_EQUAL(0, rmdir(group));
  } else {
    printf("  skipped: no control group can be made here\n");
  }
  return check_summary(__FILE__);
}

#else

int main(void) { return check_summary(__FILE__); }

#endif
