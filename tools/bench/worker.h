/* A worker of `cargo xtask bench`: it keeps a model open and does what the lines on its input say,
 * so that several libraries can take turns on the same machine.
 *
 *   open PATH                        opens the model
 *   context N_CTX N_SEQ N_THREADS    makes the context, in place of an earlier one
 *   prefill N_TOKENS N_SEQ LIMIT_S   appends so many tokens to each sequence; gives up after a time
 *   decode N_SEQ N_STEPS             appends one token to each sequence, so many times
 *   trim N_SEQ KEEP                  shortens the sequences
 *   many N N_PROMPT N_TOKENS         N requests at once, each with a prompt of so many tokens and so
 *                                    many generated ones, from empty sequences and into such again
 *   first I                          seconds from the beginning of `many` to request I's first token
 *   fork N                           makes sequences 1 to N hold what sequence 0 does
 *   save PATH, load PATH             sequence 0 to a file and back
 *   close                            frees the context and the model
 *   swap                             exchanges model and context with those that are set aside
 *   release                          the model's pages leave memory
 *   prefixes                         contexts that are made from now on keep what texts begin with
 *   eight-bits                       contexts that are made from now on have activations of 8 bits
 *   again N_TOKENS                   a prompt of so many tokens and its first token (`first 0`), and
 *                                    the same again from an empty sequence (`first 1`)
 *   continue N_TOKENS NGRAM DRAFT T  appends so many tokens to a prompt of its own at temperature T;
 *                                    guesses from repetitions if NGRAM is not 0, and by the model
 *                                    that is set aside if DRAFT is not
 *   top                              the most likely token after the last one
 *   figure NAME                      what the library says about its memory, in bytes, or how many
 *                                    guesses of the last `continue` were `drafted` and `accepted`
 *
 * Each is answered by "ok SECONDS" (`top`: the token, `figure`: bytes) or "error MESSAGE", which
 * ends the worker. `swap` and what is behind it, but for `top`, is umrt's alone; mlx-lm's worker
 * knows no more than `open` to `trim` and `top`.
 * Between lines it waits in read(2). A program that includes this file defines the engine_
 * functions, which call `fail` if something goes wrong. */

#ifndef UMRT_BENCH_WORKER_H
#define UMRT_BENCH_WORKER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_SEQUENCES = 17, CHUNK = 512, MAX_LINE = 4096 };

static void engine_open(const char *path);
static void engine_new_context(uint32_t n_ctx, uint32_t n_seq, int32_t n_threads);
static int32_t engine_vocab_size(void);
/* Appends each token to its sequence; afterwards there are logits where they are wanted. */
static void engine_eval(const int32_t *tokens, const int32_t *seq_ids, const uint8_t *want_logits,
                        int32_t n_tokens);
static void engine_trim(int32_t seq, uint32_t keep);
/* Logits of the last token of the last evaluation. */
static const float *engine_logits(void);
static void engine_close(void);
/* All requests at once, greedily; when each has its first token goes into `first_token_at`. */
static void engine_many(int32_t n_requests, int32_t n_prompt, int32_t n_tokens);
/* Makes sequence `seq` hold what sequence 0 does. */
static void engine_fork(int32_t seq);
static void engine_save(const char *path);
static void engine_load(const char *path);
/* Commands that the library alone knows; false: not this one. */
static bool engine_obey(const char *line);
static double engine_figure(const char *name);

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("error ", stdout);
  vprintf(format, arguments);
  va_end(arguments);
  putchar('\n');
  fflush(stdout);
  exit(1);
}

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Seconds from the beginning of the last `many` to each request's first token. */
static double first_token_at[MAX_SEQUENCES];

/* Different tokens, the same in every worker. */
static int32_t next_token(void) {
  static uint32_t state = 1;
  state = state * 1664525 + 1013904223;
  return (int32_t)((state >> 8) % (uint32_t)engine_vocab_size());
}

static void append_prompt(int32_t seq, int32_t n_tokens, double deadline) {
  int32_t tokens[CHUNK], seq_ids[CHUNK];
  uint8_t want_logits[CHUNK] = {0};
  for (int32_t done = 0; done < n_tokens; done += CHUNK) {
    if (seconds() > deadline) fail("%d of %d tokens took too long", done, n_tokens);
    int32_t n = n_tokens - done < CHUNK ? n_tokens - done : CHUNK;
    for (int32_t i = 0; i < n; i++) tokens[i] = next_token(), seq_ids[i] = seq;
    want_logits[n - 1] = done + n == n_tokens;
    engine_eval(tokens, seq_ids, want_logits, n);
  }
}

static void decode(int32_t n_seq, int32_t n_steps) {
  int32_t tokens[MAX_SEQUENCES], seq_ids[MAX_SEQUENCES];
  uint8_t want_logits[MAX_SEQUENCES];
  for (int32_t step = 0; step < n_steps; step++) {
    for (int32_t i = 0; i < n_seq; i++)
      tokens[i] = next_token(), seq_ids[i] = i, want_logits[i] = 1;
    engine_eval(tokens, seq_ids, want_logits, n_seq);
  }
}

static int32_t top_token(void) {
  const float *logits = engine_logits();
  int32_t best = 0;
  for (int32_t id = 1; id < engine_vocab_size(); id++)
    if (logits[id] > logits[best]) best = id;
  return best;
}

/* False: the line is none of the commands. */
static bool obey(char *line) {
  int a, b, c;
  if (strncmp(line, "open ", 5) == 0)
    engine_open(line + 5);
  else if (sscanf(line, "context %d %d %d", &a, &b, &c) == 3 && b <= MAX_SEQUENCES)
    engine_new_context((uint32_t)a, (uint32_t)b, c);
  else if (sscanf(line, "prefill %d %d %d", &a, &b, &c) == 3)
    for (double deadline = seconds() + c; b > 0; b--) append_prompt(b - 1, a, deadline);
  else if (sscanf(line, "decode %d %d", &a, &b) == 2 && a <= MAX_SEQUENCES)
    decode(a, b);
  else if (sscanf(line, "trim %d %d", &a, &b) == 2)
    while (a-- > 0) engine_trim(a, (uint32_t)b);
  else if (sscanf(line, "many %d %d %d", &a, &b, &c) == 3 && a <= MAX_SEQUENCES)
    engine_many(a, b, c);
  else if (sscanf(line, "fork %d", &a) == 1 && a < MAX_SEQUENCES)
    for (int32_t seq = 1; seq <= a; seq++) engine_fork(seq);
  else if (strncmp(line, "save ", 5) == 0)
    engine_save(line + 5);
  else if (strncmp(line, "load ", 5) == 0)
    engine_load(line + 5);
  else if (strcmp(line, "close") == 0)
    engine_close();
  else
    return engine_obey(line);
  return true;
}

int main(void) {
  char line[MAX_LINE];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    int request;
    if (strcmp(line, "top") == 0) {
      printf("ok %d\n", (int)top_token());
    } else if (sscanf(line, "first %d", &request) == 1 && request < MAX_SEQUENCES) {
      printf("ok %.9f\n", first_token_at[request]);
    } else if (strncmp(line, "figure ", 7) == 0) {
      printf("ok %.0f\n", engine_figure(line + 7));
    } else {
      double start = seconds();
      if (!obey(line)) fail("no such command: %s", line);
      printf("ok %.9f\n", seconds() - start);
    }
    fflush(stdout);
  }
  return 0;
}

#endif
