/* memory_top MODEL [PROMPT] [-n MAX_TOKENS]
 *
 * Shows where the memory is while the model writes: live on a terminal, and once a
 * second as plain lines elsewhere. Ctrl-C ends it. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "umrt.h"

enum { BAR_WIDTH = 32, TAIL_BYTES = 70 };

/* What the generating thread leaves for the one that draws. */
typedef struct {
  pthread_mutex_t lock;
  umrt_ctx *ctx;
  umrt_generate_params params;
  char tail[TAIL_BYTES + 1];
  uint64_t n_tokens;
  umrt_status status;
  char error[256];
  int is_done;
} writer;

static umrt_cancel *cancel;
static const char *strong = "", *dim = "", *color = "", *warn = "", *plain = "";
static int n_drawn;

static void on_interrupt(int number) {
  umrt_cancel_trigger(cancel);
  signal(number, SIG_DFL);
}

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Keeps the end of the text, on one line and from the beginning of a character. */
static int32_t collect(const char *text, size_t length, int32_t token, void *userdata) {
  writer *w = userdata;
  (void)token;
  pthread_mutex_lock(&w->lock);
  char both[2 * TAIL_BYTES + 1];
  const size_t kept = strlen(w->tail);
  if (length > TAIL_BYTES) text += length - TAIL_BYTES, length = TAIL_BYTES;
  memcpy(both, w->tail, kept);
  memcpy(both + kept, text, length);
  const size_t total = kept + length;
  size_t from = total > TAIL_BYTES ? total - TAIL_BYTES : 0;
  while (from < total && ((unsigned char)both[from] & 0xc0) == 0x80) from++;
  for (size_t i = from; i < total; i++) w->tail[i - from] = both[i] == '\n' ? ' ' : both[i];
  w->tail[total - from] = '\0';
  w->n_tokens++;
  pthread_mutex_unlock(&w->lock);
  return 0;
}

static void *write_text(void *userdata) {
  writer *w = userdata;
  const umrt_status status = umrt_generate(w->ctx, &w->params, collect, w, cancel, NULL);
  pthread_mutex_lock(&w->lock);
  w->status = status;
  snprintf(w->error, sizeof w->error, "%s", umrt_last_error());
  w->is_done = 1;
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

static void end_line(void) {
  puts(*plain ? "\033[K" : "");
  n_drawn++;
}

static void human(uint64_t bytes, char text[16]) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = (double)bytes;
  int unit = 0;
  for (; value >= 1024 && unit < 4; unit++) value /= 1024;
  snprintf(text, 16, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

/* A bar of `bytes` in `whole`, of which `part` is drawn solid. */
static void draw_row(const char *name, uint64_t bytes, uint64_t part, uint64_t whole,
                     const char *note) {
  char text[16];
  human(bytes, text);
  printf("  %-20s %10s  %s", name, text, color);
  for (int i = 0; i < BAR_WIDTH; i++) {
    const double place = ((double)i + 0.5) / BAR_WIDTH * (double)whole;
    /* Something that is there shows, however little it is. */
    const int is_first = i == 0 && bytes > 0;
    fputs(place < (double)part || (is_first && part > 0) ? "█"
          : place < (double)bytes || is_first            ? "░"
                                                         : " ",
          stdout);
  }
  printf("%s  %s%s%s", plain, dim, note, plain);
  end_line();
}

static void draw_memory(const umrt_memory_info *m) {
  const uint64_t other = m->process_anonymous_bytes > m->total_bytes
                             ? m->process_anonymous_bytes - m->total_bytes
                             : 0;
  const struct {
    const char *name;
    uint64_t bytes, part;
    const char *note;
  } rows[] = {
      {"weights, mapped", m->weights_mapped_bytes, m->weights_resident_bytes,
       "solid: in the page cache"},
      {"weights, private", m->weights_copied_bytes, m->weights_copied_bytes, "copied or read"},
      {"weights, locked", m->weights_locked_bytes, m->weights_locked_bytes, ""},
      {"KV cache", m->kv_reserved_bytes, m->kv_used_bytes, "solid: filled with tokens"},
      {"logits", m->logits_bytes, m->logits_bytes, ""},
      {"scratch", m->scratch_bytes, m->scratch_bytes, "intermediate results"},
      {"MLX, for reuse", m->mlx_cache_bytes, m->mlx_cache_bytes, "umrt_memory_trim gives it back"},
      {"tokenizer, template", m->text_bytes, m->text_bytes, "estimated"},
      {"accounted, private", m->total_bytes, m->total_bytes, "sum of the private rows"},
      {"process, other", other, other, "code, stacks, the application"},
      {"process, of files", m->process_file_bytes, m->process_file_bytes, "mapped and in use"},
  };
  const size_t n_rows = sizeof rows / sizeof *rows;
  uint64_t largest = 1;
  for (size_t i = 0; i < n_rows; i++)
    if (rows[i].bytes > largest) largest = rows[i].bytes;
  for (size_t i = 0; i < n_rows; i++)
    draw_row(rows[i].name, rows[i].bytes, rows[i].part, largest, rows[i].note);
}

static void draw_system(const umrt_memory_info *m, const umrt_memory_info *before) {
  static const char *const levels[] = {"unknown", "none", "some", "critical"};
  char usable[16], swap[16], peak[16];
  human(m->usable_bytes, usable);
  human(m->swap_bytes, swap);
  human(m->process_peak_bytes, peak);
  printf("  usable %s (%s), peak of the process %s, swapped %s", usable, m->usable_reason, peak,
         swap);
  end_line();
  printf("  page faults: %llu from memory, %llu from disk; memory pressure: %s (%.0f%%)",
         (unsigned long long)(m->minor_faults - before->minor_faults),
         (unsigned long long)(m->major_faults - before->major_faults),
         levels[m->pressure_level < 4 ? m->pressure_level : 0], (double)m->pressure_percent);
  end_line();
}

static int fail(void) {
  fprintf(stderr, "%s\n", umrt_last_error());
  return 1;
}

/* Returns whether the figures could be had. */
static int draw(const writer *seen, double tokens_per_s, const umrt_memory_info *before) {
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_memory_diagnosis diagnosis = UMRT_MEMORY_DIAGNOSIS_INIT;
  if (umrt_memory_stats(&memory) || umrt_memory_diagnose(NULL, &diagnosis)) return 0;
  if (*plain && n_drawn) printf("\033[%dA", n_drawn);
  n_drawn = 0;
  printf("%sumrt%s  %llu tokens, %.1f tokens/s", strong, plain,
         (unsigned long long)seen->n_tokens, tokens_per_s);
  end_line();
  draw_memory(&memory);
  draw_system(&memory, before);
  const int is_fine = diagnosis.finding == UMRT_FINDING_NORMAL;
  printf("  %s%s%s", is_fine ? "" : warn, diagnosis.text, plain);
  end_line();
  if (!is_fine) {
    printf("  %s", diagnosis.advice);
    end_line();
  }
  printf("  %s...%s%s", dim, seen->tail, plain);
  end_line();
  /* What a taller picture left below. */
  if (*plain) fputs("\033[J", stdout);
  fflush(stdout);
  return 1;
}

static void wait_ms(long ms) {
  const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static int show(writer *w) {
  umrt_memory_info before = UMRT_MEMORY_INFO_INIT;
  pthread_t thread;
  if (umrt_memory_stats(&before)) return fail();
  if (pthread_create(&thread, NULL, write_text, w)) return 1;
  const long tick_ms = 50, period_ms = *plain ? 200 : 1000;
  const double begun = now_s();
  double drawn = begun;
  int is_drawn = 1;
  writer seen;
  do {
    wait_ms(tick_ms);
    pthread_mutex_lock(&w->lock);
    seen = *w;
    pthread_mutex_unlock(&w->lock);
    const double now = now_s();
    if (!seen.is_done && (now - drawn) * 1000 < (double)period_ms) continue;
    drawn = now;
    is_drawn = draw(&seen, (double)seen.n_tokens / (now - begun), &before);
  } while (!seen.is_done && is_drawn);
  if (!is_drawn) {
    umrt_cancel_trigger(cancel);
    fail();
  }
  pthread_join(thread, NULL);
  if (w->status == UMRT_OK || w->status == UMRT_CANCELLED) return !is_drawn;
  fprintf(stderr, "%s\n", w->error);
  return 1;
}

int main(int argc, char **argv) {
  const char *path = NULL, *prompt = NULL;
  long max_tokens = 400;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "-n") == 0 && i + 1 < argc) max_tokens = strtol(argv[++i], NULL, 10);
    else if (!path) path = argv[i];
    else prompt = argv[i];
  }
  if (!path || max_tokens < 1) {
    fputs("usage: memory_top MODEL [PROMPT] [-n MAX_TOKENS]\n", stderr);
    return 2;
  }
  if (isatty(STDOUT_FILENO)) {
    strong = "\033[1m", dim = "\033[2m", color = "\033[36m", warn = "\033[33m";
    plain = "\033[0m";
  }
  umrt_model *model = NULL;
  writer w = {.lock = PTHREAD_MUTEX_INITIALIZER, .params = UMRT_GENERATE_PARAMS_INIT};
  w.params.prompt = prompt ? prompt : "Once upon a time";
  w.params.max_tokens = (uint32_t)max_tokens;
  w.params.flags = UMRT_GENERATE_IGNORE_END;
  int code = 1;
  if (umrt_cancel_new(&cancel) || umrt_model_open(path, NULL, &model) ||
      umrt_ctx_new(model, NULL, &w.ctx)) {
    fail();
  } else {
    signal(SIGINT, on_interrupt);
    code = show(&w);
    signal(SIGINT, SIG_DFL);
  }
  umrt_ctx_free(w.ctx);
  umrt_model_free(model);
  umrt_cancel_free(cancel);
  return code;
}
