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

static void open_while_large_pieces_fail(void) {
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  const umrt_status opened = umrt_model_open(CHAT_MODEL, NULL, &model);
  check_fine_or_out_of_memory(opened);
  if (opened == UMRT_OK) check_fine_or_out_of_memory(umrt_ctx_new(model, NULL, &ctx));
  umrt_ctx_free(ctx);
  umrt_model_free(model);
}

/* A model whose tokenizer was not read yet, and two of its contexts. */
static void use_while_pieces_fail_above(size_t bytes) {
  umrt_model *model = open_model(CHAT_MODEL);
  umrt_ctx *ctx = new_context(model, 1024);
  umrt_ctx *other = new_context(model, 1024);
  largest = bytes;
  open_while_large_pieces_fail();
  const umrt_status evaluated = eval_tokens(ctx, tokens, N_TOKENS);
  check_fine_or_out_of_memory(evaluated);
  CHECK_EQUAL(evaluated == UMRT_OK ? N_TOKENS : 0, length_of(ctx));
  check_fine_or_out_of_memory(generate(other));
  largest = SIZE_MAX;
  CHECK_OK(umrt_seq_trim(ctx, 0, 0));
  CHECK_OK(eval_tokens(ctx, tokens, N_TOKENS));
  CHECK_OK(umrt_seq_trim(other, 0, 0));
  CHECK_OK(generate(other));
  umrt_ctx_free(ctx);
  umrt_ctx_free(other);
  umrt_model_free(model);
}

int main(void) {
  for (int i = 0; i < N_TOKENS; i++) tokens[i] = i % 100;
  for (int shift = 16; shift < 26; shift++) use_while_pieces_fail_above((size_t)1 << shift);
  CHECK(n_refused > 0);
  return check_summary(__FILE__);
}

#else

int main(void) { return check_summary(__FILE__); }

#endif
