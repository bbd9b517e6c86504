/* generate MODEL [PROMPT] [-n MAX_TOKENS] [-t TEMPERATURE] [--chat] [--seed N]
 *
 * Streams what the model writes, then shows where the memory went and how fast
 * it was. Ctrl-C ends the text, a second one the program. */

#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "umrt.h"

typedef struct {
  const char *model;
  const char *prompt;
  uint32_t max_tokens;
  int is_chat;
  umrt_sampler_params sampling;
} options;

static umrt_cancel *cancel;
static const char *strong = "", *dim = "", *color = "", *plain = "";

static void on_interrupt(int number) {
  umrt_cancel_trigger(cancel);
  signal(number, SIG_DFL);
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* Whether the arguments make sense. */
static int parse(int argc, char **argv, options *given) {
  for (int i = 1; i < argc; i++) {
    const char *name = argv[i];
    if (strcmp(name, "--chat") == 0) {
      given->is_chat = 1;
    } else if (name[0] != '-') {
      const char **next = given->model ? &given->prompt : &given->model;
      if (*next) return 0;
      *next = name;
    } else {
      char *end;
      const double value = ++i < argc ? strtod(argv[i], &end) : -1;
      if (!(value >= 0 && value <= UINT32_MAX) || *end != '\0') return 0;
      if (strcmp(name, "-n") == 0) given->max_tokens = (uint32_t)value;
      else if (strcmp(name, "-t") == 0) given->sampling.temperature = (float)value;
      else if (strcmp(name, "--seed") == 0) given->sampling.seed = (uint64_t)value;
      else return 0;
    }
  }
  if (!given->prompt) given->prompt = given->is_chat ? "Tell me a story." : "Once upon a time";
  return given->model != NULL;
}

/* A conversation of one message, as JSON; free() it. */
static char *conversation(const char *message) {
  static const char head[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"";
  static const char tail[] = "\"}]}";
  char *json = malloc(sizeof head + 6 * strlen(message) + sizeof tail);
  if (!json) exit(1);
  char *end = json + sprintf(json, "%s", head);
  for (; *message; message++) {
    const unsigned char byte = (unsigned char)*message;
    if (byte == '"' || byte == '\\') *end++ = '\\';
    if (byte < 0x20) end += sprintf(end, "\\u%04x", byte);
    else *end++ = *message;
  }
  strcpy(end, tail);
  return json;
}

static int32_t print(const char *text, size_t length, int32_t token, void *first_text_ms) {
  double *first = first_text_ms;
  (void)token;
  if (*first == 0) *first = now_ms();
  return fwrite(text, 1, length, stdout) < length || fflush(stdout) != 0;
}

static const char *human(uint64_t bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  static char texts[4][16];
  static unsigned next;
  char *text = texts[next++ % 4];
  double value = (double)bytes;
  int unit = 0;
  for (; value >= 1024 && unit < 4; unit++) value /= 1024;
  snprintf(text, sizeof *texts, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

enum { BAR_WIDTH = 28 };

/* In eighths of a character, and at least one for anything that is there. */
static void draw_bar(uint64_t bytes, uint64_t whole, int is_padded) {
  static const char *const parts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const double share = whole > 0 ? (double)bytes / (double)whole : 0;
  int eighths = (int)(share * BAR_WIDTH * 8 + 0.5);
  if (bytes > 0 && eighths == 0) eighths = 1;
  printf("  %s", color);
  for (int i = 0; i < eighths / 8; i++) fputs("█", stdout);
  printf("%s%s", parts[eighths % 8], plain);
  if (is_padded) printf("%*s", BAR_WIDTH - (eighths + 7) / 8, "");
}

typedef struct {
  const char *name;
  uint64_t bytes;
  const char *note;
  uint64_t noted_bytes;
} memory_row;

static void show_memory(const umrt_memory_info *m) {
  const memory_row rows[] = {
      {"weights, mapped", m->weights_mapped_bytes, "of files in memory", m->weights_resident_bytes},
      {"weights, copied", m->weights_copied_bytes, NULL, 0},
      {"KV cache", m->kv_reserved_bytes, "used", m->kv_used_bytes},
      {"logits", m->logits_bytes, NULL, 0},
      {"scratch", m->scratch_bytes, NULL, 0},
      {"MLX, for reuse", m->mlx_cache_bytes, NULL, 0},
      {"MLX, peak", m->mlx_peak_bytes, NULL, 0},
      {"process, anonymous", m->process_anonymous_bytes, NULL, 0},
      {"process, files", m->process_file_bytes, NULL, 0},
  };
  const size_t n_rows = sizeof rows / sizeof *rows;
  uint64_t largest = 0;
  for (size_t i = 0; i < n_rows; i++)
    if (rows[i].bytes > largest) largest = rows[i].bytes;
  printf("\n%sMemory%s\n", strong, plain);
  for (size_t i = 0; i < n_rows; i++) {
    printf("  %-19s %10s", rows[i].name, human(rows[i].bytes));
    if (rows[i].bytes > 0 || rows[i].note) draw_bar(rows[i].bytes, largest, rows[i].note != NULL);
    if (rows[i].note) printf("  %s%s %s%s", dim, human(rows[i].noted_bytes), rows[i].note, plain);
    putchar('\n');
  }
  printf("  %-19s %10s  of %s (%s)\n", "usable by models", human(m->usable_bytes),
         human(m->physical_bytes), m->usable_reason);
  printf("  %-19s %10llu  from memory, %llu from disk\n", "page faults",
         (unsigned long long)m->minor_faults, (unsigned long long)m->major_faults);
}

static void show_rate(const char *name, uint64_t n_tokens, uint64_t ns) {
  if (n_tokens > 0)
    printf("  %-19s %10.1f  tokens/s  %s(%llu tokens)%s\n", name,
           (double)n_tokens * 1e9 / (double)ns, dim, (unsigned long long)n_tokens, plain);
}

static int fail(void) {
  fprintf(stderr, "%s\n", umrt_last_error());
  return 1;
}

static int run(const options *given, umrt_model **model, umrt_ctx **ctx) {
  double first_text_ms = 0;
  umrt_perf perf = UMRT_PERF_INIT;
  umrt_memory_info memory = UMRT_MEMORY_INFO_INIT;
  umrt_generate_params params = UMRT_GENERATE_PARAMS_INIT;
  char *chat = given->is_chat ? conversation(given->prompt) : NULL;
  params.prompt = chat ? NULL : given->prompt;
  params.chat = chat;
  params.max_tokens = given->max_tokens;
  params.sampling = &given->sampling;

  const double begun_ms = now_ms();
  umrt_status status = umrt_model_open(given->model, NULL, model);
  if (status == UMRT_OK) status = umrt_ctx_new(*model, NULL, ctx);
  const double opened_ms = now_ms();
  if (status == UMRT_OK) {
    if (!chat) printf("%s%s%s", dim, given->prompt, plain);
    status = umrt_generate(*ctx, &params, print, &first_text_ms, cancel, NULL);
    puts(status == UMRT_CANCELLED ? " ..." : "");
  }
  free(chat);
  if (status != UMRT_OK && status != UMRT_CANCELLED) return fail();
  if (umrt_memory_stats(&memory) || umrt_ctx_perf(*ctx, &perf)) return fail();

  show_memory(&memory);
  printf("\n%sSpeed%s\n", strong, plain);
  printf("  %-19s %10.1f  ms\n", "open", opened_ms - begun_ms);
  if (first_text_ms > 0) printf("  %-19s %10.1f  ms\n", "first text", first_text_ms - opened_ms);
  show_rate("prompt", perf.n_prefill_tokens, perf.prefill_ns);
  show_rate("decode", perf.n_decode_tokens, perf.decode_ns);
  return 0;
}

int main(int argc, char **argv) {
  umrt_model *model = NULL;
  umrt_ctx *ctx = NULL;
  options given = {.max_tokens = 200, .sampling = UMRT_SAMPLER_PARAMS_INIT};
  if (!parse(argc, argv, &given)) {
    fputs("usage: generate MODEL [PROMPT] [-n MAX_TOKENS] [-t TEMPERATURE] [--chat] [--seed N]\n",
          stderr);
    return 2;
  }
  if (isatty(STDOUT_FILENO))
    strong = "\033[1m", dim = "\033[2m", color = "\033[36m", plain = "\033[0m";
  if (umrt_cancel_new(&cancel)) return fail();
  signal(SIGINT, on_interrupt);
  const int code = run(&given, &model, &ctx);
  signal(SIGINT, SIG_DFL);
  umrt_ctx_free(ctx);
  umrt_model_free(model);
  umrt_cancel_free(cancel);
  return code;
}
