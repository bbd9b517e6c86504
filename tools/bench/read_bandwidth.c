/* What the memory gives a plain loop that reads: the limit of decoding.
 *
 * usage: read_bandwidth N_THREADS MIB_PER_THREAD N_PASSES
 *
 * Prints bytes per second, one line per pass. Compile with optimization for the machine at hand, so
 * that the loop over 64-bit words becomes one over its widest registers. */

#define _POSIX_C_SOURCE 200112L

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Few enough words that all sums stay in registers. */
enum { MAX_THREADS = 256, WORDS_PER_STEP = 16 };

typedef struct {
  const uint64_t *words;
  size_t n_words;
  uint64_t sum;
} share;

/* Stored to, so that the reading cannot be left out. */
static volatile uint64_t checksum;

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void *read_share(void *argument) {
  share *part = argument;
  uint64_t sums[WORDS_PER_STEP] = {0};
  for (size_t i = 0; i < part->n_words; i += WORDS_PER_STEP)
    for (size_t j = 0; j < WORDS_PER_STEP; j++) sums[j] ^= part->words[i + j];
  for (size_t j = 0; j < WORDS_PER_STEP; j++) part->sum ^= sums[j];
  return NULL;
}

static double one_pass(share *parts, int n_threads) {
  pthread_t threads[MAX_THREADS];
  double start = seconds();
  for (int i = 0; i < n_threads; i++)
    if (pthread_create(&threads[i], NULL, read_share, &parts[i]) != 0) exit(1);
  for (int i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
  return seconds() - start;
}

int main(int argc, char **argv) {
  static share parts[MAX_THREADS];
  int n_threads = argc == 4 ? atoi(argv[1]) : 0;
  size_t bytes = argc == 4 ? (size_t)atoi(argv[2]) << 20 : 0;
  if (n_threads < 1 || n_threads > MAX_THREADS || bytes == 0) {
    fputs("usage: read_bandwidth N_THREADS MIB_PER_THREAD N_PASSES\n", stderr);
    return 2;
  }
  for (int i = 0; i < n_threads; i++) {
    void *buffer = NULL;
    if (posix_memalign(&buffer, (size_t)1 << 21, bytes) != 0) {
      fputs("read_bandwidth: not enough memory\n", stderr);
      return 1;
    }
    memset(buffer, i + 1, bytes);
    parts[i] = (share){.words = buffer, .n_words = bytes / sizeof(uint64_t)};
  }
  for (int pass = atoi(argv[3]); pass > 0; pass--) {
    printf("%.0f\n", (double)bytes * n_threads / one_pass(parts, n_threads));
    for (int i = 0; i < n_threads; i++) checksum ^= parts[i].sum;
  }
  return 0;
}
