/* When the system has no large piece of memory left, calls return a status, and
 * work again as soon as there is some. */

#include "fixtures.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__GLIBC__)

/* Allocations of more bytes fail. */
static _Atomic size_t largest = SIZE_MAX;
static atomic_int n_refused;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static int refuses(size_t size) {
  if (size <= largest) return 0;
  atomic_fetch_add(&n_refused, 1);
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t size) { return refuses(size) ? NULL : __libc_malloc(size); }

void *calloc(size_t n, size_t size) {
  const size_t bytes = size != 0 && n > SIZE_MAX / size ? SIZE_MAX : n * size;
  return refuses(bytes) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *memory, size_t size) {
  return refuses(size) ? NULL : __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size) {
  return refuses(size) ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **memory, size_t alignment, size_t size) {
  void *made = memalign(alignment, size);
  if (made == NULL) return ENOMEM;
  *memory = made;
  return 0;
}

void *mmap(void *at, size_t length, int protection, int flags, int file, off_t offset) {
  if ((flags & MAP_ANONYMOUS) && refuses(length)) return MAP_FAILED;
  return (void *)syscall(SYS_mmap, at, length, protection, flags, file, offset);
}

enum { N_TOKENS = 400 };
static int32_t tokens[N_TOKENS];

static void check_fine_or_out_of_memory(umrt_status status) {
  if (CHECK(status == UMRT_OK || status == UMRT_OUT_OF_MEMORY)) return;
  fprintf(stderr, "  returned %s: %s\n", umrt_status_name(status), umrt_last_error());
}

static umrt_status generate(umrt_ctx *ctx) {
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  params.tokens = tokens;
  params.n_tokens = N_TOKENS;
  params.max_tokens = 4;
  return umrt_generate(ctx, &params, NULL, NULL, NULL, NULL);
}

static void use_while_large_pieces_fail(umrt_ctx *ctx, size_t bytes) {
  umrt_model *model = NULL;
  umrt_ctx *other = NULL;
  const uint32_t before = length_of(ctx);
  largest = bytes;
  const umrt_status opened = umrt_model_open(CHAT_MODEL, NULL, &model);
  const umrt_status made =
      opened == UMRT_OK ? umrt_ctx_new(model, NULL, &other) : UMRT_OUT_OF_MEMORY;
  const umrt_status evaluated = eval_tokens(ctx, tokens, N_TOKENS);
  const uint32_t after = length_of(ctx);
  const umrt_status generated = made == UMRT_OK ? generate(other) : UMRT_OUT_OF_MEMORY;
  largest = SIZE_MAX;
  check_fine_or_out_of_memory(opened);
  check_fine_or_out_of_memory(made);
  check_fine_or_out_of_memory(evaluated);
  check_fine_or_out_of_memory(generated);
  CHECK_EQUAL(before + (evaluated == UMRT_OK ? N_TOKENS : 0), after);
  umrt_ctx_free(other);
  umrt_model_free(model);
}

int main(void) {
  umrt_model *model = open_model(CHAT_MODEL);
  for (int i = 0; i < N_TOKENS; i++) tokens[i] = i % 100;
  for (int shift = 16; shift < 26; shift++) {
    umrt_ctx *ctx = new_context(model, 1024);
    use_while_large_pieces_fail(ctx, (size_t)1 << shift);
    CHECK_OK(umrt_seq_trim(ctx, 0, 0));
    CHECK_OK(eval_tokens(ctx, tokens, N_TOKENS));
    CHECK_OK(generate(ctx));
    umrt_ctx_free(ctx);
  }
  CHECK(n_refused > 0);
  umrt_model_free(model);
  return check_summary(__FILE__);
}

#else

int main(void) { return check_summary(__FILE__); }

#endif
