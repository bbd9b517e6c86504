/* Checks that are counted. A program calls check_summary() last and returns
 * what it returns. Include this first: it asks for all of POSIX. */

#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "umrt.h"

/* Each evaluates its arguments once and is true if the check passed. */
#define CHECK(condition) check_that(!!(condition), CHECK_HERE(#condition))
#define CHECK_EQUAL(expected, actual) \
  check_equal((long long)(expected), (long long)(actual), CHECK_HERE(#actual))
#define CHECK_TEXT(expected, actual) check_text(expected, actual, CHECK_HERE(#actual))
#define CHECK_CONTAINS(part, text) check_contains(part, text, CHECK_HERE(#text))
#define CHECK_STATUS(expected, call) check_status(expected, call, CHECK_HERE(#call))
#define CHECK_OK(call) CHECK_STATUS(UMRT_OK, call)
/* The call fails with this status and a new message with this part in it. */
#define CHECK_FAILS(expected, part, call) \
  (check_forget_error(), check_failure(expected, part, call, CHECK_HERE(#call)))
/* Without this the rest makes no sense. */
#define REQUIRE(check) ((check) ? (void)0 : exit(check_summary(__FILE__)))

typedef struct {
  const char *file;
  int line;
  const char *what;
} check_place;

#define CHECK_HERE(what) ((check_place){__FILE__, __LINE__, what})

static atomic_int check_n_passed;
static atomic_int check_n_failed;

static inline int check_that(int passed, check_place place) {
  if (!passed) fprintf(stderr, "%s:%d: failed: %s\n", place.file, place.line, place.what);
  atomic_fetch_add(passed ? &check_n_passed : &check_n_failed, 1);
  return passed;
}

static inline int check_equal(long long expected, long long actual, check_place place) {
  if (!check_that(expected == actual, place))
    fprintf(stderr, "  is %lld, not %lld\n", actual, expected);
  return expected == actual;
}

static inline int check_text(const char *expected, const char *actual, check_place place) {
  const int equal = strcmp(expected, actual) == 0;
  if (!check_that(equal, place)) fprintf(stderr, "  is \"%s\"\n  not \"%s\"\n", actual, expected);
  return equal;
}

static inline int check_contains(const char *part, const char *text, check_place place) {
  const int found = strstr(text, part) != NULL;
  if (!check_that(found, place)) fprintf(stderr, "  \"%s\" is not in \"%s\"\n", part, text);
  return found;
}

static inline int check_status(umrt_status expected, umrt_status actual, check_place place) {
  if (!check_that(expected == actual, place))
    fprintf(stderr, "  returned %s, not %s; the last error is \"%s\"\n", umrt_status_name(actual),
            umrt_status_name(expected), umrt_last_error());
  return expected == actual;
}

#define CHECK_FORGOTTEN "there is no device"

/* Leaves a message that no other call makes. */
static inline void check_forget_error(void) {
  umrt_device_info info = UMRT_DEVICE_INFO_INIT;
  umrt_device_info_get(SIZE_MAX, &info);
}

static inline int check_failure(umrt_status expected, const char *part, umrt_status actual,
                                check_place place) {
  const char *message = umrt_last_error();
  const int is_new = message[0] != '\0' && strstr(message, CHECK_FORGOTTEN) == NULL;
  if (!check_status(expected, actual, place)) return 0;
  if (!check_that(is_new, place)) fprintf(stderr, "  left no message\n");
  return check_contains(part, message, place) && is_new;
}

static inline int check_summary(const char *file) {
  const char *slash = strrchr(file, '/');
  printf("%s: %d passed, %d failed\n", slash ? slash + 1 : file, check_n_passed, check_n_failed);
  return check_n_failed > 0;
}

#endif
