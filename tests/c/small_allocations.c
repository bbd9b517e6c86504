/* Small allocations of the library fail, one after the other, or all from one on: calls
 * return a status, and work again as soon as there is memory. */

#include "fixtures.h"

#include <errno.h>
#include <unistd.h>

#if defined(__GLIBC__)

#include <link.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

/* Where libumrt's code lies. MLX's own allocations do not come from there. */
static uintptr_t code_start, code_end;

/* Allocations until the one that fails; 0: none does. */
static atomic_long n_left;
/* Whether those behind it fail, too. */
static atomic_int lasts;
static atomic_int n_refused;

static int is_of_the_library(const void *caller) {
  return (uintptr_t)caller >= code_start && (uintptr_t)caller < code_end;
}

static int refuses(const void *caller) {
  const long left = atomic_load(&n_left);
  if (left == 0 || !is_of_the_library(caller)) return 0;
  if (!(lasts && left == 1) && atomic_fetch_sub(&n_left, 1) != 1) return 0;
  atomic_fetch_add(&n_refused, 1);
  errno = ENOMEM;
  return 1;
}

#define REFUSES() refuses(__builtin_return_address(0))

void *malloc(size_t size) { return REFUSES() ? NULL : __libc_malloc(size); }

void *calloc(size_t n, size_t size) { return REFUSES() ? NULL : __libc_calloc(n, size); }

void *realloc(void *memory, size_t size) {
  return REFUSES() ? NULL : __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  return REFUSES() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
  if (REFUSES()) return ENOMEM;
  *memory = __libc_memalign(alignment, size);
  return *memory == NULL ? ENOMEM : 0;
}

static int find_code(struct dl_phdr_info *object, size_t size, void *unused) {
  (void)size, (void)unused;
  if (strstr(object->dlpi_name, "libumrt.so") == NULL) return 0;
  for (int i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *part = &object->dlpi_phdr[i];
    if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
    code_start = object->dlpi_addr + part->p_vaddr;
    code_end = code_start + part->p_memsz;
  }
  return 1;
}

enum { N_TOKENS = 20 };
static int32_t tokens[N_TOKENS];
static char saved[] = "/tmp/umrt-small-allocations-XXXXXX";

typedef struct {
  umrt_model *model;
  umrt_ctx *ctx;
  umrt_sampler *sampler;
} handles;

/* A shortage that lasts while a tokenizer is read, and begins behind the question for its
 * memory, is more than the library's own store can bridge. */
static umrt_status generate(umrt_ctx *ctx) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  if (lasts) {
    params.tokens = tokens;
    params.n_tokens = N_TOKENS;
    params.flags = UMRT_GENERATE_IGNORE_END;
  } else {
    params.prompt = "Once";
  }
  params.max_tokens = 4;
  return umrt_generate(ctx, &params, NULL, NULL, NULL, NULL);
}

static umrt_ctx *new_context_of(const umrt_model *model, uint32_t n_threads) {
  umrt_ctx *ctx = NULL;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = 64;
  params.n_threads = n_threads;
  REQUIRE(CHECK_OK(umrt_ctx_new(model, &params, &ctx)));
  return ctx;
}

/* Ends at the first call that fails. */
static umrt_status live(handles *all) {
  int32_t token;
  umrt_ctx_params params = UMRT_CTX_PARAMS_INIT;
  params.n_ctx = 64;
  params.n_threads = 2;
  umrt_status status = umrt_model_open(CHAT_MODEL, NULL, &all->model);
  if (status == UMRT_OK) status = umrt_ctx_new(all->model, &params, &all->ctx);
  if (status == UMRT_OK) status = umrt_sampler_new(NULL, &all->sampler);
  if (status == UMRT_OK) status = eval_tokens(all->ctx, tokens, N_TOKENS);
  if (status == UMRT_OK) status = umrt_sample(all->ctx, all->sampler, 0, &token);
  if (status == UMRT_OK) status = umrt_seq_save(all->ctx, 0, saved);
  if (status == UMRT_OK) status = umrt_seq_trim(all->ctx, 0, 0);
  if (status == UMRT_OK) status = umrt_seq_load(all->ctx, 0, saved);
  if (status == UMRT_OK) status = umrt_seq_trim(all->ctx, 0, 0);
  if (status == UMRT_OK) status = generate(all->ctx);
  return status;
}

static void free_all(handles *all) {
  umrt_sampler_free(all->sampler);
  umrt_ctx_free(all->ctx);
  umrt_model_free(all->model);
}

/* While memory is there again. */
static void nothing_is_left_but(umrt_memory_info before) {
  const umrt_memory_info memory = process_memory();
  CHECK_EQUAL(before.weights_mapped_bytes, memory.weights_mapped_bytes);
  CHECK_EQUAL(before.weights_copied_bytes, memory.weights_copied_bytes);
  CHECK_EQUAL(before.kv_reserved_bytes, memory.kv_reserved_bytes);
  CHECK_EQUAL(before.logits_bytes, memory.logits_bytes);
  CHECK_EQUAL(before.mlx_active_bytes, memory.mlx_active_bytes);
}

/* Whether any allocation failed; with `n` large enough none does. */
static int live_while_fails(long n) {
  handles all = {.model = NULL};
  const umrt_memory_info memory = process_memory();
  const int before = n_refused;
  n_left = n;
  const umrt_status status = live(&all);
  free_all(&all);
  n_left = 0;
  if (!CHECK(status == UMRT_OK || status == UMRT_OUT_OF_MEMORY || status == UMRT_OVER_BUDGET))
    fprintf(stderr, "  %s allocation %ld: %s: %s\n", lasts ? "from" : "only", n,
            umrt_status_name(status), umrt_last_error());
  nothing_is_left_but(memory);
  return n_refused > before;
}

/* A few hundred of them: all of the first, then fewer and fewer. */
static void each_allocation_may_fail(void) {
  long n_lives = 0;
  n_refused = 0;
  for (long n = 1; live_while_fails(n); n += 1 + n / 40, n_lives++) {
    handles all = {.model = NULL};
    CHECK_OK(live(&all));
    free_all(&all);
  }
  CHECK(n_refused > 100);
  printf("small-allocations [\"%s\", %ld, %d]\n",
         lasts ? "all behind the n-th, while a call lasts" : "the n-th", n_lives, n_refused);
}

int main(void) {
  for (int i = 0; i < N_TOKENS; i++) tokens[i] = i;
  dl_iterate_phdr(find_code, NULL);
  REQUIRE(CHECK(code_start < code_end));
  /* Rust's library ends the process where it gets no memory for a thread; with this one the
   * threads are there already. */
  const umrt_memory_info nothing = process_memory();
  umrt_model *other = open_model(TOKEN_MODEL);
  umrt_ctx *threads = new_context_of(other, 2);
  const int file = mkstemp(saved);
  REQUIRE(CHECK(file >= 0));
  close(file);
  for (lasts = 0; lasts < 2; lasts++) each_allocation_may_fail();
  umrt_ctx_free(threads);
  umrt_model_free(other);
  nothing_is_left_but(nothing);
  unlink(saved);
  return check_summary(__FILE__);
}

#else

int main(void) { return check_summary(__FILE__); }

#endif
